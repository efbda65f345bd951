#![cfg(target_arch = "x86_64")]

use super::*;

#[test]
fn every_line_is_asked_for_that_a_byte_lies_in() {
    for (first, bytes, lines) in [
        (128, 1, vec![128]),
        (128, 64, vec![128]),
        (128, 65, vec![128, 192]),
        (190, 2, vec![128]),
        (190, 3, vec![128, 192]),
        (160, 192, vec![128, 192, 256, 320]),
    ] {
        let found: Vec<usize> = lines_of(std::ptr::without_provenance(first), bytes).map(<*const u8>::addr).collect();
        assert_eq!(found, lines, "{bytes} bytes from {first}");
    }
}
