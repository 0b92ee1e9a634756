//! Parts of matrices: a range of rows and a range of columns.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};

/// A part of a view.
pub(crate) fn part<T>(mut view: ArrayView2<'_, T>, rows: Range<usize>, cols: Range<usize>) -> ArrayView2<'_, T> {
    view.slice_axis_inplace(Axis(0), Slice::from(rows));
    view.slice_axis_inplace(Axis(1), Slice::from(cols));
    view
}

/// A part of a view that may be changed.
pub(crate) fn part_mut<T>(
    mut view: ArrayViewMut2<'_, T>,
    rows: Range<usize>,
    cols: Range<usize>,
) -> ArrayViewMut2<'_, T> {
    view.slice_axis_inplace(Axis(0), Slice::from(rows));
    view.slice_axis_inplace(Axis(1), Slice::from(cols));
    view
}
