//! Who decides that a page moves from one size class to another: the shard, by what its classes miss, or an operator.
//! Moves nothing by itself; see `leaving.rs` for that.

use crate::departures::Departures;
use crate::leaving::Destination;
use crate::shard::Shard;
use crate::slab::{Class, ClassId};

/// Pages are compared across classes this many times for as many requests as there are items.
const COMPARISONS_PER_ITEMS: u64 = 32;
const REQUESTS_MIN: u64 = 256;
/// Demand a returning key adds to its class: on average it could have been kept by half of two pages.
const DEMAND_OF_RETURN: f64 = 0.5;
const DEMAND_KEPT: f64 = 0.9;
/// Demand that moves a page must be so many times the donor's, and so much more.
const DEMAND_RATIO: f64 = 2.0;
const DEMAND_MARGIN: f64 = 8.0;
/// Hits that a donor's pages would get from the taker's items must be so many times its own, and so much more. They
/// are sampled, so the margin is in hits, not in hits a page: those come to less than one where pages are many.
const HITS_RATIO: f64 = 8.0;
const HITS_MARGIN: f64 = 24.0;
/// Comparisons of the classes for one of [`Automove::Conservative`].
const AGGRESSIVE_COMPARISONS: u64 = 4;
/// Its part of the lead that a class must have.
const AGGRESSIVE_MARGIN_SHARE: f64 = 0.25;

/// Whether pages follow demand from class to class by themselves (memcached's `slabs automove` 0, 1 and 2).
///
/// In every mode a class without any page, the index and the caller's external bytes get the pages they cannot do
/// without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Automove {
    /// Only [`Shard::move_page`] moves pages.
    Off,
    /// A page moves if another class would clearly gain more by it than its own loses.
    #[default]
    Conservative,
    /// Classes are compared four times as often and a quarter of the lead is enough. For a workload that just
    /// changed; otherwise pages go back and forth, at a cost in hits.
    Aggressive,
}

/// The answer to [`Shard::move_page`]. Only `Begun` changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovePage {
    /// The page takes no new items and will belong to the other class once it is empty, some stores or steps of
    /// [`Shard::maintain`] later.
    Begun,
    /// Another page is on its way.
    Busy,
    /// There is no such class.
    UnknownClass,
    /// Source and destination are the same.
    SameClass,
    /// The source has one page or none, or the shard does not evict, which moving may take.
    NoSpare,
}

impl Automove {
    /// Comparisons of the classes for one of the default mode.
    pub(crate) fn comparisons(self) -> u64 {
        match self {
            Automove::Off | Automove::Conservative => 1,
            Automove::Aggressive => AGGRESSIVE_COMPARISONS,
        }
    }

    /// What part of the default mode's margins decides.
    pub(crate) fn margin_share(self) -> f64 {
        match self {
            Automove::Off | Automove::Conservative => 1.0,
            Automove::Aggressive => AGGRESSIVE_MARGIN_SHARE,
        }
    }
}

impl Shard {
    /// Sets who decides that pages move, from the next store on. A page on its way still arrives.
    pub fn set_automove(&mut self, automove: Automove) {
        self.automove = automove;
        self.next_comparison = self.requests;
    }

    /// Who decides that pages move.
    pub fn automove(&self) -> Automove {
        self.automove
    }

    /// Lets a page leave `from` for `to`, the cheapest of a few (memcached's `slabs reassign`). Without `from`, the
    /// class whose pages are hit least gives it. The items of the page that were hit lately move to other chunks of
    /// their class, free ones or those of items that the policy would evict next; the others are evicted. O(pages).
    pub fn move_page(&mut self, from: Option<ClassId>, to: ClassId) -> MovePage {
        let classes = self.slabs.class_ids().count();
        if to.index() >= classes || from.is_some_and(|from| from.index() >= classes) {
            return MovePage::UnknownClass;
        }
        if from == Some(to) {
            return MovePage::SameClass;
        }
        if self.leaving.is_some() {
            return MovePage::Busy;
        }
        let source = from.or_else(|| self.class_hit_least(to));
        let spares = |&class: &ClassId| self.evict && self.slabs.class(class).pages > 1;
        let page = source.filter(spares).and_then(|source| self.cheapest_page_of(source));
        match page {
            Some(page) => {
                self.begin_leaving(page, Destination::Class(to));
                MovePage::Begun
            }
            None => MovePage::NoSpare,
        }
    }

    /// Counts a key that comes back to its class after it was evicted from it, for the demand of the class.
    pub(crate) fn count_return(&mut self, class: ClassId, hash: u64) {
        if self.slabs.classes_in_use() < 2 {
            return;
        }
        let class = self.slabs.class_mut(class);
        if class.departures.contains(hash) {
            class.demand += DEMAND_OF_RETURN;
        }
    }

    /// Remembers that a class evicted a key, if there is memory to do so and another class to compete with.
    pub(crate) fn count_departure(&mut self, class: ClassId, hash: u64) {
        if self.slabs.classes_in_use() < 2 {
            return;
        }
        if self.slabs.class(class).departures.bytes() == 0 {
            self.allocate_departures(class);
        }
        self.slabs.class_mut(class).departures.insert(hash);
    }

    /// Moves a page from the class that would miss it least to the one that would gain most, if it is clear that it
    /// would. The margins are wide on purpose: eager moves gain nothing on average and can lose much.
    pub(crate) fn compare_classes(&mut self) {
        let interval = (self.counters.items / COMPARISONS_PER_ITEMS).max(REQUESTS_MIN);
        self.next_comparison = self.requests + interval / self.automove.comparisons();
        let demand = |class: &ClassId| self.slabs.class(*class).demand;
        let by_demand = |a: &ClassId, b: &ClassId| demand(a).total_cmp(&demand(b));
        let neediest = self.slabs.class_ids().max_by(by_demand);
        let donor = neediest.and_then(|neediest| self.donor_for(neediest));
        let by_demand = neediest.zip(donor);
        if self.automove != Automove::Off
            && let Some((taker, donor)) = by_demand.or_else(|| self.by_hits())
            && let Some(page) = self.cheapest_page_of(donor)
        {
            self.begin_leaving(page, Destination::Class(taker));
            self.slabs.class_mut(taker).demand /= 2.0;
        }
        for class in self.slabs.class_ids() {
            let class = self.slabs.class_mut(class);
            class.evicted_lately *= DEMAND_KEPT;
            class.hits_sampled *= DEMAND_KEPT;
            class.demand *= DEMAND_KEPT;
        }
    }

    /// The class whose pages are hit least, of those in clearly less demand.
    fn donor_for(&self, neediest: ClassId) -> Option<ClassId> {
        let demand = self.slabs.class(neediest).demand;
        let margin = self.automove.margin_share() * DEMAND_MARGIN;
        let is_donor = |class: &ClassId| {
            let donor = self.slabs.class(*class);
            donor.pages > 1 && demand > DEMAND_RATIO * donor.demand + margin
        };
        let donors = self.slabs.class_ids().filter(is_donor);
        donors.min_by(|&a, &b| self.hits_per_page(a).total_cmp(&self.hits_per_page(b)))
    }

    /// A class that evicts while its pages are hit many times more often than those of another: what is left of a
    /// time when sizes were different.
    fn by_hits(&self) -> Option<(ClassId, ClassId)> {
        let by_hits = |a: &ClassId, b: &ClassId| self.hits_per_page(*a).total_cmp(&self.hits_per_page(*b));
        let evicts = |class: &ClassId| self.slabs.class(*class).evicted_lately >= 1.0;
        let spares = |class: &ClassId| self.slabs.class(*class).pages > 1;
        let taker = self.slabs.class_ids().filter(evicts).max_by(by_hits)?;
        let donor = self.slabs.class_ids().filter(spares).min_by(by_hits)?;
        let Class { pages, hits_sampled, .. } = self.slabs.class(donor);
        let expected = self.hits_per_page(taker) * (*pages as f64);
        let clear = expected > HITS_RATIO * *hits_sampled + self.automove.margin_share() * HITS_MARGIN;
        clear.then_some((taker, donor))
    }

    fn hits_per_page(&self, class: ClassId) -> f64 {
        let class = self.slabs.class(class);
        class.hits_sampled / class.pages.max(1) as f64
    }

    fn allocate_departures(&mut self, class: ClassId) {
        let chunks = self.slabs.class(class).chunks_per_page as usize;
        let bytes = Departures::bytes_of(chunks);
        if self.fits(bytes) {
            self.departure_bytes += bytes;
            self.slabs.class_mut(class).departures = Departures::new(chunks);
        }
    }

    fn class_hit_least(&self, except: ClassId) -> Option<ClassId> {
        let spares = |&class: &ClassId| class != except && self.slabs.class(class).pages > 1;
        let sources = self.slabs.class_ids().filter(spares);
        sources.min_by(|&a, &b| self.hits_per_page(a).total_cmp(&self.hits_per_page(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::expiry::{Expiry, Seconds};
    use crate::store::Store;

    const NOW: Seconds = Seconds(1_700_000_000);

    /// A full shard of two classes, the smaller one with most pages.
    fn shard() -> Shard {
        let mut shard = Shard::new(&Config { hash_seed: Some(1), ..Config::with_memory(1 << 20) }).unwrap();
        fill(&mut shard, 0..300, 1_000);
        fill(&mut shard, 1_000..20_000, 50);
        shard
    }

    fn fill(shard: &mut Shard, keys: std::ops::Range<u32>, value_len: usize) {
        for key in keys {
            shard.store(NOW, &Store::set(&key.to_le_bytes(), &vec![0; value_len], Expiry::Never));
        }
    }

    fn classes_in_use(shard: &Shard) -> Vec<(ClassId, usize)> {
        let classes = shard.classes().filter(|class| class.items > 0);
        classes.map(|class| (class.class, class.pages)).collect()
    }

    #[test]
    fn a_page_moves_on_request_whether_or_not_pages_move_by_themselves() {
        for automove in [Automove::Off, Automove::Conservative, Automove::Aggressive] {
            let mut shard = shard();
            shard.set_automove(automove);
            let before = classes_in_use(&shard);
            let [(small, pages_of_small), .., (large, pages_of_large)] = before[..] else {
                panic!("{before:?}")
            };
            assert_eq!(shard.move_page(Some(small), large), MovePage::Begun);
            assert_eq!(shard.move_page(Some(small), large), MovePage::Busy);
            while shard.maintain(NOW, 8) {
                shard.check_invariants();
            }
            let after = classes_in_use(&shard);
            assert_eq!(after[0], (small, pages_of_small - 1));
            assert_eq!(after.last(), Some(&(large, pages_of_large + 1)), "{automove:?}");
        }
    }

    #[test]
    fn any_class_but_the_destination_gives_a_page_if_no_source_is_named() {
        let mut shard = shard();
        let small = classes_in_use(&shard)[0].0;
        let pages = |shard: &Shard| classes_in_use(shard)[0].1;
        let before = pages(&shard);
        assert_eq!(shard.move_page(None, small), MovePage::Begun);
        while shard.maintain(NOW, 8) {}
        assert_eq!(pages(&shard), before + 1);
    }

    #[test]
    fn what_cannot_move_is_refused_and_nothing_changes() {
        let mut shard = shard();
        let [(small, _), .., (large, _)] = classes_in_use(&shard)[..] else { panic!("two classes") };
        let empty = shard.classes().find(|class| class.pages == 0).unwrap().class;
        let before = classes_in_use(&shard);
        for (from, to, refusal) in [
            (Some(small), small, MovePage::SameClass),
            (Some(empty), small, MovePage::NoSpare),
            (Some(ClassId(200)), small, MovePage::UnknownClass),
            (None, ClassId(200), MovePage::UnknownClass),
        ] {
            assert_eq!(shard.move_page(from, to), refusal);
        }
        assert_eq!(classes_in_use(&shard), before);
        shard.evict = false;
        assert_eq!(shard.move_page(Some(small), large), MovePage::NoSpare);
    }

    /// Pages moved while small items of the past are asked for no more and larger ones are.
    fn moves_as_sizes_change(automove: Automove) -> u64 {
        let mut shard = shard();
        shard.set_automove(automove);
        for key in (0..4_000_u32).cycle().take(100_000) {
            if shard.get(NOW, &(key % 700).to_le_bytes()).is_none() {
                fill(&mut shard, key % 700..key % 700 + 1, 1_000);
            }
        }
        shard.check_invariants();
        shard.counters().page_moves
    }

    #[test]
    fn pages_follow_demand_unless_told_not_to() {
        assert_eq!(moves_as_sizes_change(Automove::Off), 0);
        let [conservative, aggressive] =
            [Automove::Conservative, Automove::Aggressive].map(moves_as_sizes_change);
        assert!(conservative > 10 && aggressive >= conservative, "{conservative} {aggressive}");
    }
}
