//! The middle of some numbers: what a few runs of a moody machine come to.

/// The middle, or the mean of the middle two; none of nothing.
pub(crate) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let (below, above) = (numbers.len().checked_sub(1)? / 2, numbers.len() / 2);
    Some(f64::midpoint(numbers[below], numbers[above]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_none_odd_and_even() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
