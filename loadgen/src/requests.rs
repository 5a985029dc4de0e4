//! Requests as bytes: templates made once by `slabring_protocol::client`, in which only digits and values change.

use slabring_protocol::client;

use crate::args::{Ratio, Sizes};
use crate::keys::Keys;
use crate::popularity::{Dice, Picker};
use crate::values::Values;

/// All keys and what each one's value is.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    pub(crate) keys: Keys,
    pub(crate) values: Values,
}

/// Which of the two a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Get,
    Set,
}

/// Makes the requests of one thread.
pub(crate) struct Requests<'s> {
    space: &'s Space,
    ratio: Ratio,
    picker: Picker,
    dice: Dice,
    /// A get of key 0, as many times as a get has keys.
    get: Vec<u8>,
    /// Where the keys of `get` begin, and how far apart they are.
    get_first_key: usize,
    keys_per_get: u32,
    set: SetTemplate,
}

enum SetTemplate {
    /// All values have one size: the line of a set of key 0.
    Line { line: Vec<u8>, key_at: usize },
    /// Sizes differ: key and value are put together here first.
    Parts { key: Vec<u8>, value: Vec<u8> },
}

impl<'s> Requests<'s> {
    pub(crate) fn new(
        space: &'s Space,
        sizes: Sizes,
        ratio: Ratio,
        keys_per_get: u32,
        picker: Picker,
        dice: Dice,
    ) -> Self {
        assert!(keys_per_get > 0 && ratio.gets + ratio.sets > 0);
        let mut get = Vec::new();
        client::get_many(&mut get, (0..keys_per_get).map(|_| space.keys.zero()));
        let get_first_key = get.len() - 2 - keys_per_get as usize * (space.keys.zero().len() + 1) + 1;
        Self {
            space,
            ratio,
            picker,
            dice,
            get,
            get_first_key,
            keys_per_get,
            set: SetTemplate::new(space, sizes),
        }
    }

    /// Appends the next request to `out`. Says what it is and its (first) key.
    #[inline]
    pub(crate) fn append(&mut self, out: &mut Vec<u8>) -> (Kind, u64) {
        if self.is_set() { (Kind::Set, self.append_set(out)) } else { (Kind::Get, self.append_get(out)) }
    }

    pub(crate) fn keys_per_get(&self) -> u32 {
        self.keys_per_get
    }

    #[inline]
    fn is_set(&mut self) -> bool {
        let Ratio { sets, gets } = self.ratio;
        sets > 0 && (gets == 0 || self.dice.below(u64::from(sets) + u64::from(gets)) < u64::from(sets))
    }

    #[inline]
    fn append_get(&mut self, out: &mut Vec<u8>) -> u64 {
        let keys = &self.space.keys;
        let key_size = keys.zero().len();
        let mut at = out.len() + self.get_first_key;
        out.extend_from_slice(&self.get);
        let first = self.picker.pick(&mut self.dice);
        keys.patch(&mut out[at..at + key_size], first);
        for _ in 1..self.keys_per_get {
            at += key_size + 1;
            keys.patch(&mut out[at..at + key_size], self.picker.pick(&mut self.dice));
        }
        first
    }

    #[inline]
    fn append_set(&mut self, out: &mut Vec<u8>) -> u64 {
        let Space { keys, values } = self.space;
        let number = self.picker.pick(&mut self.dice);
        match &mut self.set {
            SetTemplate::Line { line, key_at } => {
                let at = out.len() + *key_at;
                out.extend_from_slice(line);
                keys.patch(&mut out[at..at + keys.zero().len()], number);
                values.append(number, out);
                out.extend_from_slice(b"\r\n");
            }
            SetTemplate::Parts { key, value } => {
                keys.patch(key, number);
                value.clear();
                values.append(number, value);
                client::set(out, key, 0, 0, value);
            }
        }
        number
    }
}

impl SetTemplate {
    fn new(space: &Space, sizes: Sizes) -> Self {
        let mut key = space.keys.zero().to_vec();
        if sizes.min != sizes.max {
            return Self::Parts { key, value: Vec::new() };
        }
        let mut value = Vec::new();
        space.values.append(0, &mut value);
        let mut line = Vec::new();
        client::set(&mut line, &key, 0, 0, &value);
        line.truncate(line.len() - value.len() - 2);
        key.clear();
        let key_at = line.iter().position(|&byte| byte == b' ').map_or(0, |space| space + 1);
        Self::Line { line, key_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::Popularity;

    const COUNT: u64 = 1000;

    fn space(sizes: Sizes) -> Space {
        Space { keys: Keys::new(COUNT, 12), values: Values::new(sizes) }
    }

    fn twin_key(number: u64) -> Vec<u8> {
        format!("k{number:011}").into_bytes()
    }

    fn requests(space: &Space, sizes: Sizes, sets: u32, gets: u32, keys_per_get: u32) -> Requests<'_> {
        let picker = Picker::new(Popularity::Sequential, COUNT, 0);
        Requests::new(space, sizes, Ratio { sets, gets }, keys_per_get, picker, Dice::new(1, 1))
    }

    #[test]
    fn patched_gets_are_those_the_protocol_crate_writes() {
        for keys_per_get in [1, 2, 100] {
            let sizes = Sizes { min: 5, max: 5 };
            let space = space(sizes);
            let mut requests = requests(&space, sizes, 0, 1, keys_per_get);
            let (mut out, mut twin) = (Vec::new(), Vec::new());
            for request in 0..5 {
                let first = request * u64::from(keys_per_get);
                assert_eq!(requests.append(&mut out), (Kind::Get, first));
                let keys: Vec<_> = (first..first + u64::from(keys_per_get)).map(twin_key).collect();
                client::get_many(&mut twin, keys.iter().map(Vec::as_slice));
            }
            assert_eq!(out, twin);
        }
    }

    #[test]
    fn sets_are_those_the_protocol_crate_writes() {
        for sizes in [Sizes { min: 0, max: 0 }, Sizes { min: 32, max: 32 }, Sizes { min: 3, max: 300 }] {
            let space = space(sizes);
            let mut requests = requests(&space, sizes, 1, 0, 1);
            let (mut out, mut twin) = (Vec::new(), Vec::new());
            for number in 0..20 {
                assert_eq!(requests.append(&mut out), (Kind::Set, number));
                let mut value = Vec::new();
                space.values.append(number, &mut value);
                client::set(&mut twin, &twin_key(number), 0, 0, &value);
            }
            assert_eq!(out, twin);
        }
    }

    #[test]
    fn the_mix_is_the_ratio_asked_for_with_sets_first() {
        let sizes = Sizes { min: 1, max: 1 };
        let space = space(sizes);
        let mut requests = requests(&space, sizes, 1, 3, 1);
        let mut out = Vec::new();
        let mut sets = 0;
        for _ in 0..100_000 {
            out.clear();
            sets += u32::from(requests.append(&mut out).0 == Kind::Set);
        }
        assert!((24_300..25_700).contains(&sets), "{sets}");
    }
}
