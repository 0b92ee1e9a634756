//! What goes in comes out, the same bytes from every instruction set, in the order that the layout's definition says.

use super::{Random, hash, normal_weights, random_weights};
use crate::cell::{CELL_BLOCKS, block_position};
use crate::group::{decode_with, encode_with};
use crate::{Error, Geometry, GroupView, Layout, Matrix, decode_group, encode_group, kernels};
use proptest::prelude::*;

/// Encodes with every instruction set (equal bytes) over a dirty buffer, decodes, and gives the group.
fn check_group(layout: Layout, cols: usize, n_rows: usize, src: &[u8]) -> Vec<u8> {
    let mut dirty = vec![0xaa; 3 * src.len() + 1000];
    let mut groups = kernels::available().map(|kernels| {
        encode_with(kernels, layout, cols, n_rows, src, &mut dirty).unwrap();
        dirty.clone()
    });
    let group = groups.next().unwrap();
    for (kernels, other) in kernels::available().skip(1).zip(groups) {
        assert!(other == group, "{layout:?} ({n_rows}, {cols}): bytes of {} differ", kernels.name);
    }
    let mut back = vec![0xaa; src.len()];
    decode_group(layout, cols, n_rows, &group, &mut back).unwrap();
    assert!(back == src, "{layout:?} ({n_rows}, {cols})");
    assert_eq!(group.len() % 64, 0);
    let (view, mut scratch) = (GroupView::parse(layout, cols, &group).unwrap(), vec![0x55; 100]);
    for kernels in kernels::available() {
        back.fill(0xaa);
        decode_with(kernels, &view, cols, 0, &mut scratch, &mut back).unwrap();
        assert!(back == src, "{layout:?} ({n_rows}, {cols}) with {}", kernels.name);
    }
    group
}

/// Whatever is wrong with a group, every instruction set finds it, or gives the same weights.
#[test]
fn damage_is_the_same_everywhere() {
    let mut random = Random(9);
    for layout in Layout::all().filter(|layout| layout.has_palette()) {
        let (n_rows, cols) = (40, 100);
        for src in
            [normal_weights(layout, n_rows * cols, &mut random), random_weights(layout, n_rows * cols, &mut random)]
        {
            let group = check_group(layout, cols, n_rows, &src);
            for _ in 0..2000 {
                let mut changed = group.clone();
                for _ in 0..1 + random.next() % 3 {
                    changed[random.next() as usize % group.len()] ^= 1 << (random.next() % 8);
                }
                let Ok(view) = GroupView::parse(layout, cols, &changed) else { continue };
                let results: Vec<Option<Vec<u8>>> = kernels::available()
                    .map(|kernels| {
                        let mut back = vec![0xaa; src.len()];
                        decode_with(kernels, &view, cols, 0, &mut Vec::new(), &mut back).ok().map(|()| back)
                    })
                    .collect();
                assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{layout:?}");
            }
        }
    }
}

#[test]
fn shapes() {
    let mut random = Random(1);
    let tall = [(1, 1), (16, 32), (15, 31), (17, 33), (16, 64), (32, 32), (33, 100), (100, 256), (5, 1000), (1024, 8)];
    for (n_rows, cols) in tall {
        for layout in Layout::all() {
            check_group(layout, cols, n_rows, &normal_weights(layout, n_rows * cols, &mut random));
            check_group(layout, cols, n_rows, &random_weights(layout, n_rows * cols, &mut random));
        }
    }
}

#[test]
fn every_small_shape() {
    let mut random = Random(2);
    for n_rows in (1..=18).chain([31, 32, 33]) {
        for cols in (1..=5).chain(28..=36).chain([63, 64, 65, 96]) {
            for layout in Layout::all() {
                check_group(layout, cols, n_rows, &normal_weights(layout, n_rows * cols, &mut random));
            }
        }
    }
}

/// Every bf16 value once, so that both palettes overflow and every tile has each kind of escape.
#[test]
fn every_value() {
    let words: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (n_rows, cols) in [(64, 1024), (1024, 64), (256, 256)] {
        for layout in Layout::all().filter(|layout| layout.element_bytes() == 2) {
            let group = check_group(layout, cols, n_rows, &words);
            assert!(GroupView::parse(layout, cols, &group).unwrap().is_wide());
        }
    }
}

/// Every index, so that both palettes overflow.
#[test]
fn every_index() {
    let indices: Vec<u8> = (0..256 * 64).map(|idx| (idx * 7 + idx / 256) as u8).collect();
    for (n_rows, cols) in [(64, 256), (256, 64), (16, 1024)] {
        for layout in Layout::all().filter(|layout| layout.is_index()) {
            if layout == Layout::Int4 {
                let refused = encode_group(layout, cols, n_rows, &indices, &mut Vec::new());
                assert!(matches!(refused, Err(Error::InvalidArgument(_))));
                continue;
            }
            let group = check_group(layout, cols, n_rows, &indices);
            assert!(!GroupView::parse(layout, cols, &group).unwrap().is_wide());
        }
    }
}

/// Cells of indices, read as the definition has it and without the code that wrote them.
#[test]
fn indices_are_laid_out_as_defined() {
    let (n_rows, cols) = (16, 32);
    let index = |row: usize, col: usize| (row * 5 + col * 3) as u8 % 7;
    let src: Vec<u8> = (0..n_rows * cols).map(|idx| index(idx / cols, idx % cols)).collect();
    let groups = [Layout::Index8, Layout::Index4, Layout::Index3, Layout::Int4]
        .map(|layout| (layout, check_group(layout, cols, n_rows, &src)));
    for (layout, group) in &groups {
        let view = GroupView::parse(*layout, cols, group).unwrap();
        let cell = view.tile(0).cells;
        for block in 0..CELL_BLOCKS {
            for i in 0..64 {
                let (row, col) = block_position(block, i);
                let found = match layout {
                    Layout::Index8 => cell[64 * block + i],
                    Layout::Int4 => (cell[block / 2 * 64 + i] >> (block % 2 * 4) & 15).wrapping_sub(8),
                    Layout::Index4 => view.palette()[usize::from(cell[block / 2 * 64 + i] >> (block % 2 * 4) & 15)],
                    _ => {
                        let (a, b, c) = (cell[i], cell[64 + i], cell[128 + i]);
                        let code = match block {
                            6 => (a >> 6) | (c >> 6 & 1) << 2,
                            7 => (b >> 6) | (c >> 7) << 2,
                            _ => [a, b, c][block / 2] >> (block % 2 * 3) & 7,
                        };
                        view.palette()[usize::from(code)]
                    }
                };
                assert_eq!(found, index(row, col), "{layout:?} block {block} index {i}");
            }
        }
    }
}

/// High bytes that change from cell to cell: whole cells of escapes, in nibbles or raw, beside cells without.
#[test]
fn escapes_only() {
    let (n_rows, cols) = (48, 320);
    for period in [1, 8, 23, 24, 256] {
        let word = |idx: usize| ((idx / 32 % period * 37 % 256) * 256 + idx * 7 % 256) as u16;
        let words: Vec<u8> = (0..n_rows * cols).flat_map(|idx| word(idx).to_le_bytes()).collect();
        for layout in [Layout::Exact11, Layout::Exact12] {
            check_group(layout, cols, n_rows, &words);
        }
    }
}

/// The cells of a group without escapes, read as the definition has it and without the code that wrote them.
#[test]
fn cells_are_laid_out_as_defined() {
    let (n_rows, cols) = (16, 32);
    let word = |row: usize, col: usize| ((60 + (row * 5 + col * 3) % 7) * 256 + (row * 32 + col) % 256) as u16;
    let words: Vec<u16> = (0..n_rows * cols).map(|idx| word(idx / cols, idx % cols)).collect();
    let src: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bf16 = check_group(Layout::Bf16, cols, n_rows, &src);
    let exact11 = check_group(Layout::Exact11, cols, n_rows, &src);
    let exact12 = check_group(Layout::Exact12, cols, n_rows, &src);
    assert_eq!(bf16.len(), 64 + 1024);
    let (view11, view12) = (
        GroupView::parse(Layout::Exact11, cols, &exact11).unwrap(),
        GroupView::parse(Layout::Exact12, cols, &exact12).unwrap(),
    );
    let (cell11, cell12) = (view11.tile(0).cells, view12.tile(0).cells);
    for block in 0..CELL_BLOCKS {
        for i in 0..64 {
            let (row, col) = block_position(block, i);
            let [low, high] = word(row, col).to_le_bytes();
            let at = 64 + (col / 2) * 64 + row * 4 + (col % 2) * 2;
            assert_eq!(bf16[at..at + 2], [low, high]);
            let (a, b, c) = (cell11[i], cell11[64 + i], cell11[128 + i]);
            let code11 = match block {
                6 => (a >> 6) | (c >> 6 & 1) << 2,
                7 => (b >> 6) | (c >> 7) << 2,
                _ => [a, b, c][block / 2] >> (block % 2 * 3) & 7,
            };
            assert_eq!((view11.palette()[usize::from(code11)], cell11[192 + block * 64 + i]), (high, low));
            let code12 = cell12[block / 2 * 64 + i] >> (block % 2 * 4) & 15;
            assert_eq!((view12.palette()[usize::from(code12)], cell12[256 + block * 64 + i]), (high, low));
        }
    }
}

#[test]
fn matrices_of_several_groups() {
    let mut random = Random(3);
    for (rows, cols) in [(300, 4096), (17, 40_000), (20_000, 20)] {
        for layout in Layout::all() {
            let src = normal_weights(layout, rows * cols, &mut random);
            let matrix = Matrix::encode(layout, rows, cols, &src).unwrap();
            assert!(matrix.n_groups() > 1 && !matrix.is_wide(), "{matrix:?}");
            let mut back = vec![0xaa; src.len()];
            matrix.decode(&mut back).unwrap();
            assert!(back == src, "{matrix:?}");
            let cells: usize = (0..matrix.n_tiles()).map(|tile_idx| matrix.tile(tile_idx).cells.len()).sum();
            assert_eq!(cells, matrix.n_tiles() * matrix.geometry().n_cells() * layout.cell_bytes());
        }
    }
}

#[test]
fn wrong_arguments() {
    let check = |layout, cols, n_rows, len: usize| {
        let found = encode_group(layout, cols, n_rows, &vec![0; len], &mut vec![]);
        assert!(matches!(found, Err(Error::InvalidArgument(_))), "({n_rows}, {cols}) {len}");
        let found = decode_group(layout, cols, n_rows, &[0; 64], &mut vec![0; len]);
        assert!(matches!(found, Err(Error::InvalidArgument(_))), "({n_rows}, {cols}) {len}");
    };
    for layout in Layout::all() {
        check(layout, 0, 1, 0);
        check(layout, 1, 0, 0);
        check(layout, 2, 2, 4 * layout.element_bytes() + 1);
        check(layout, 2, 2, 3 * layout.element_bytes());
        check(layout, usize::MAX, 1, 0);
        check(layout, 1, usize::MAX, 0);
        let limit = Geometry::new(layout, 1, 4096).unwrap().tiles_per_group() * 16;
        check(layout, 4096, limit + 1, (limit + 1) * 4096 * layout.element_bytes());
    }
}

proptest! {
    #[test]
    fn any_weights(n_rows in 1..40usize, cols in 1..80usize, seed in 1..u64::MAX, spread in 0..9u32) {
        let mut random = Random(seed);
        for layout in Layout::all() {
            let mut src = normal_weights(layout, n_rows * cols, &mut random);
            // Some bytes changed to anything: escapes of each kind, infinities, subnormals.
            for byte in &mut src {
                if random.next() >> 40 & 0xff < (1 << spread) - 1 {
                    *byte = (random.next() >> 32) as u8;
                    *byte = if layout == Layout::Int4 { (*byte & 15).wrapping_sub(8) } else { *byte };
                }
            }
            check_group(layout, cols, n_rows, &src);
        }
    }
}

/// The bytes of a layout never change: a file may hold them.
#[test]
fn golden() {
    let mut is_right = true;
    let mut check = |layout: Layout, n_rows: usize, cols: usize, expected: u64| {
        let mut random = Random(4);
        let mut src = normal_weights(layout, n_rows * cols, &mut random);
        let extremes = random_weights(layout, 40, &mut random);
        src[..extremes.len()].copy_from_slice(&extremes);
        let found = hash(&check_group(layout, cols, n_rows, &src));
        println!("check(Layout::{layout:?}, {n_rows}, {cols}, {found:#x});");
        is_right &= found == expected;
    };
    check(Layout::F32, 40, 100, 0xdfff_5933_588b_7626);
    check(Layout::F16, 40, 100, 0x277d_abdf_6b4b_7e0e);
    check(Layout::Bf16, 40, 100, 0xa7b8_f91c_b2ac_1540);
    check(Layout::Exact11, 40, 100, 0x1c25_e3a2_2f1c_a9fe);
    check(Layout::Exact12, 40, 100, 0xe357_2b6c_3ba3_9b73);
    // Long enough that only a part is counted for the palettes.
    check(Layout::Exact11, 77, 5000, 0x6e49_aa8d_bc7e_362a);
    check(Layout::Exact12, 77, 5000, 0xe074_2bb3_8db4_c737);
    check(Layout::Index8, 40, 100, 0x7507_71f2_e389_154c);
    check(Layout::Index4, 40, 100, 0x8a6f_212b_6513_bb38);
    check(Layout::Index3, 40, 100, 0x0e85_e682_498d_5418);
    check(Layout::Index4, 77, 5000, 0x1740_d852_259d_be99);
    check(Layout::Int4, 40, 100, 0xa426_9d0b_4d84_804f);
    assert!(is_right, "found those above");
}
