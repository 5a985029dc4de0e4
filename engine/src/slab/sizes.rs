//! Which chunk sizes there are. Knows no page and no class.

use super::{CHUNK_SIZE_MAX, CLASSES_MAX};
use crate::arena::LOCATION_UNIT;

/// The largest chunks are this part of a page where pages are small; larger values are chains of them. Fewer would
/// round sizes up by more, more would make chains of items that are common in a small cache.
pub(super) const CHUNKS_PER_PAGE_MIN: usize = 4;

/// Chunk sizes rising from about `smallest` by about the factor, each the largest of which as many fit a page.
pub(super) fn chunk_sizes(page_size: usize, smallest: usize, growth_factor: f64) -> Vec<usize> {
    let aligned = |size: usize| size / LOCATION_UNIT * LOCATION_UNIT;
    let smallest = smallest.next_multiple_of(LOCATION_UNIT);
    let largest = (page_size / CHUNKS_PER_PAGE_MIN).min(CHUNK_SIZE_MAX).max(smallest);
    let growth_factor = growth_factor.max(slowest_growth(smallest, largest));
    let mut ideal = smallest as f64;
    let mut sizes: Vec<usize> = vec![smallest];
    while sizes.len() < CLASSES_MAX - 1 {
        ideal *= growth_factor;
        let last = *sizes.last().expect("it begins with the smallest");
        let size = aligned(whole(ideal)).max(last + LOCATION_UNIT);
        if size >= largest {
            break;
        }
        sizes.push(aligned(page_size / (page_size / size)));
    }
    sizes.retain(|&size| size < largest);
    sizes.push(largest);
    sizes
}

/// The factor with which the classes just reach the largest size.
fn slowest_growth(smallest: usize, largest: usize) -> f64 {
    (largest as f64 / smallest as f64).powf(1.0 / (CLASSES_MAX - 2) as f64)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float casts saturate; sizes are small"
)]
pub(super) fn whole(size: f64) -> usize {
    size as usize
}
