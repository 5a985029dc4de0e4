//! Whether the values in a reply are the ones their keys must have. Only for replies that the parser has
//! found complete; keeps no state.

use crate::requests::Space;

/// Values in `reply` that are wrong: of a key that does not exist, of another key than `only`, or not what
/// their key's must be. `reply` is all of a reply with `hits` values.
pub(crate) fn wrong_values(space: &Space, reply: &[u8], hits: u32, only: Option<u64>) -> u64 {
    let mut rest = reply;
    let mut wrong = 0;
    for _ in 0..hits {
        let Some((block, behind)) = next_block(rest) else { return wrong + 1 };
        wrong += u64::from(!is_right(space, &block, only));
        rest = behind;
    }
    wrong
}

struct Block<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

/// `VALUE <key> <flags> <size>`, the value, and what comes after its line end.
fn next_block(reply: &[u8]) -> Option<(Block<'_>, &[u8])> {
    let line_size = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let (line, rest) = reply.split_at(line_size);
    let mut words = line.trim_ascii_end().split(|&byte| byte == b' ').skip(1);
    let key = words.next()?;
    let size = str::from_utf8(words.nth(1)?).ok()?.parse().ok()?;
    let (value, rest) = rest.split_at_checked(size)?;
    Some((Block { key, value }, rest.strip_prefix(b"\r\n")?))
}

fn is_right(space: &Space, block: &Block<'_>, only: Option<u64>) -> bool {
    space.keys.number(block.key).is_some_and(|number| {
        only.is_none_or(|only| only == number)
            && block.value.len() == space.values.size(number) as usize
            && space.values.holds(number, 0, block.value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Sizes;
    use crate::keys::Keys;
    use crate::values::Values;

    fn space() -> Space {
        Space { keys: Keys::new(100, 8), values: Values::new(Sizes { min: 0, max: 60 }) }
    }

    fn block(space: &Space, key: &str, number: u64) -> Vec<u8> {
        let mut value = Vec::new();
        space.values.append(number, &mut value);
        let mut out = format!("VALUE {key} 0 {}\r\n", value.len()).into_bytes();
        out.extend_from_slice(&value);
        out.extend_from_slice(b"\r\n");
        out
    }

    #[test]
    fn right_values_are_right_in_any_number() {
        let space = space();
        let mut reply: Vec<u8> =
            (0..50).flat_map(|number| block(&space, &format!("k{number:07}"), number)).collect();
        reply.extend_from_slice(b"END\r\n");
        assert_eq!(wrong_values(&space, &reply, 50, None), 0);
        assert_eq!(wrong_values(&space, b"END\r\n", 0, Some(3)), 0);
        assert_eq!(wrong_values(&space, &block(&space, "k0000003", 3), 1, Some(3)), 0);
    }

    #[test]
    fn values_of_other_keys_and_cut_or_changed_values_are_wrong() {
        let space = space();
        assert_eq!(wrong_values(&space, &block(&space, "k0000003", 4), 1, Some(3)), 1);
        assert_eq!(wrong_values(&space, &block(&space, "k0000003", 3), 1, Some(4)), 1);
        assert_eq!(wrong_values(&space, &block(&space, "k0000100", 3), 1, None), 1);
        assert_eq!(wrong_values(&space, b"VALUE k0000003 0 0\r\n\r\nEND\r\n", 1, None), 1);
        let mut changed = block(&space, "k0000003", 3);
        let at = changed.len() - 3;
        changed[at] ^= 1;
        assert_eq!(wrong_values(&space, &changed, 1, None), 1);
    }
}
