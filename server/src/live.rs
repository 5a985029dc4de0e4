//! Values that many threads read and that are replaced now and then: certificates, passwords. A reader keeps its own reference
//! and takes the lock only after a replacement.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The value of now.
#[derive(Debug)]
pub struct Live<T> {
    generation: AtomicU64,
    value: Mutex<Arc<T>>,
}

impl<T> Live<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self { generation: AtomicU64::new(1), value: Mutex::new(Arc::new(value)) }
    }

    /// The value of now, for who looks rarely. Takes the lock.
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on readers get `value`; those who hold the one before keep it.
    pub fn replace(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// One thread's reference.
#[derive(Debug)]
pub struct Held<T> {
    generation: u64,
    value: Option<Arc<T>>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { generation: 0, value: None }
    }
}

impl<T> Held<T> {
    /// The value of now. A load while it has not been replaced.
    pub fn get(&mut self, live: &Live<T>) -> &Arc<T> {
        let generation = live.generation.load(Ordering::Acquire);
        if self.generation != generation {
            self.generation = generation;
            self.value = Some(Arc::clone(&live.value.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        self.value.as_ref().expect("generations start at 1, so the first call has set it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_a_replacement_at_its_next_look_and_keeps_what_it_holds() {
        let live = Live::new('a');
        let mut held = Held::default();
        let first = Arc::clone(held.get(&live));
        live.replace('b');
        assert_eq!((*first, **held.get(&live)), ('a', 'b'));
        assert!(Arc::ptr_eq(&Arc::clone(held.get(&live)), held.get(&live)));
    }
}
