//! Rotation of heads against its twin.

mod common;

use netweight_kernels_cuda::launch::{self, Heads};
use netweight_kernels_cuda::twin;
use rand::Rng;

#[test]
fn rope() {
    let mut random = common::random();
    let cases = [
        (1, 0, 1, 2, 2),
        (3, 4, 3, 64, 64),
        (2, 0, 5, 80, 32),
        (5, 1, 9, 128, 128),
        (1, 0, 1, 512, 512),
        (2, 0, 1, 8, 0),
    ];
    for device in common::devices() {
        for (n_rows, col, n_heads, head_dim, rotary_dim) in cases {
            let (heads, stride, table_len) = (Heads { col, n_heads, head_dim }, col + n_heads * head_dim + 1, 6);
            let mut expected = common::odd(&mut random, n_rows * stride, 3.0);
            let table = common::normal(&mut random, table_len * rotary_dim, 1.0);
            let mut table_rows: Vec<u32> = (0..n_rows).map(|_| random.random_range(0..table_len as u32)).collect();
            if n_rows > 2 {
                table_rows[1] = table_len as u32; // beyond: stays
            }
            let mut x = common::buffer(&device, stride, &expected);
            let on_device = (device.upload(&table).expect("memory"), device.upload(&table_rows).expect("memory"));
            launch::rope(&mut x, n_rows, heads, rotary_dim, &on_device.0, &on_device.1).expect("a launch");
            for (row, &table_row) in expected.chunks_mut(stride).zip(&table_rows) {
                if let Some(angles) = table.get(table_row as usize * rotary_dim..(table_row as usize + 1) * rotary_dim)
                {
                    row[col..][..heads.width()].chunks_mut(head_dim).for_each(|head| twin::rope(head, angles));
                }
            }
            assert_eq!(common::bits(&common::values(&x)), common::bits(&expected), "{n_rows} x {heads:?} {rotary_dim}");
        }
    }
}
