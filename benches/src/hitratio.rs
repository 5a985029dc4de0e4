//! Recorded traces against the engine in this process: miss ratios by policy and capacity, beside what others reached.

mod plot;
mod reference;
mod replay;
mod report;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use anyhow::{Context, ensure};
use slabring_engine::PolicyKind;

use reference::{Mode, Reference, Share};
use replay::{Budget, replay};
use report::{Cell, Report};
use slabring_load::trace::Trace;

const EXAMPLES: &str = "\
Examples:
  One trace, the default policy, at 1, 5, 10 and 20 % of its keys:
    slabring-bench hitratio --trace oltp.ctr.zst
  All policies beside the reference, as a table, CSV and pictures:
    slabring-bench hitratio --trace traces/*.ctr.zst --reference traces --policy all --csv out.csv --svg out.svg
  Bytes of memory instead of items:
    slabring-bench hitratio --mode bytes --sizes 0.1,0.3 --trace traces/*.ctr.zst";

/// Plays recorded traces against the engine and prints miss ratios: of gets, the cold start included; a get that misses
/// stores the value.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Traces in the CTRACE01 format
    #[arg(long = "trace", value_name = "FILE", num_args = 1.., required = true)]
    traces: Vec<PathBuf>,

    /// Directory with reference_objects.csv and reference_bytes.csv
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,

    /// Eviction policies, or "all"; the first is compared with the reference
    #[arg(long = "policy", value_name = "P,...", value_delimiter = ',', num_args = 1.., default_value = "tinylfu")]
    policies: Vec<Policies>,

    /// Capacities as shares of the trace's keys or unique bytes [default: 0.01,0.05,0.1,0.2; of bytes 0.02,0.1,0.3]
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',')]
    sizes: Vec<Share>,

    /// What a capacity counts
    #[arg(long, value_enum, default_value = "objects")]
    mode: Mode,

    /// Also write all cells as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Also draw all cells
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Decides which keys the engine samples; what changes with it is noise
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// Traces played at the same time
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

/// A word of `--policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policies {
    All,
    One(PolicyKind),
}

impl FromStr for Policies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || PolicyKind::ALL.map(PolicyKind::name).join(", ");
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One).map_err(|_| format!("expected all or one of {}", names())),
        }
    }
}

impl Policies {
    /// Each policy once, in the order asked for.
    fn of(words: &[Self]) -> Vec<PolicyKind> {
        let mut policies = Vec::new();
        for word in words {
            let more = match word {
                Self::All => PolicyKind::ALL.to_vec(),
                Self::One(policy) => vec![*policy],
            };
            for policy in more {
                if !policies.contains(&policy) {
                    policies.push(policy);
                }
            }
        }
        policies
    }
}

/// Plays everything and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let reference =
        args.reference.as_ref().map(|directory| Reference::read(directory, args.mode)).transpose()?;
    let policies = Policies::of(&args.policies);
    let shares = if args.sizes.is_empty() { args.mode.shares() } else { args.sizes.clone() };
    let cells = play_all(args, &policies, &shares)?;
    ensure!(!cells.is_empty(), "every capacity is too small for a shard");
    let report = Report { mode: args.mode, policies, reference, cells };
    print!("{report}");
    if let Some(path) = &args.csv {
        fs::write(path, report.csv()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        plot::draw(&report, path)?;
    }
    Ok(())
}

/// All cells in the order of the command line. The threads take the largest trace that is left.
fn play_all(args: &Args, policies: &[PolicyKind], shares: &[Share]) -> anyhow::Result<Vec<Cell>> {
    let mut order: Vec<usize> = (0..args.traces.len()).collect();
    order.sort_by_key(|&at| fs::metadata(&args.traces[at]).map_or(0, |file| u64::MAX - file.len()));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..usize::from(args.threads).min(order.len()) {
            scope.spawn(|| {
                while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let cells = Trace::open(&args.traces[at])
                        .and_then(|trace| play(&trace, args.mode, policies, shares, args.seed));
                    done.lock().expect("no thread panics while it holds this").push((at, cells));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics while it holds this");
    done.sort_by_key(|&(at, _)| at);
    let cells: Vec<Vec<Cell>> = done.into_iter().map(|(_, cells)| cells).collect::<anyhow::Result<_>>()?;
    Ok(cells.into_iter().flatten().collect())
}

/// All cells of one trace. Leaves out, and says so, what is too small for a shard.
fn play(
    trace: &Trace,
    mode: Mode,
    policies: &[PolicyKind],
    shares: &[Share],
    seed: u64,
) -> anyhow::Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for &share in shares {
        let (capacity, budget) = budget(trace, mode, share)?;
        for &policy in policies {
            let place = || format!("{}, {share}, {}", trace.name, policy.name());
            match replay(trace, policy, budget, seed) {
                Err(error) => eprintln!("{}: left out: {error}", place()),
                Ok(replayed) => {
                    let cell = Cell { trace: trace.name.clone(), share, capacity, policy, replayed };
                    eprintln!("{}: {:.4}", place(), cell.miss_ratio());
                    cells.push(cell);
                }
            }
        }
    }
    Ok(cells)
}

fn budget(trace: &Trace, mode: Mode, share: Share) -> anyhow::Result<(u64, Budget)> {
    let capacity = share.of(match mode {
        Mode::Objects => trace.keys,
        Mode::Bytes => trace.unique_bytes,
    });
    let count = usize::try_from(capacity)?;
    Ok((
        capacity,
        match mode {
            Mode::Objects => Budget::Objects(count.max(1)),
            Mode::Bytes => Budget::Bytes(count),
        },
    ))
}

#[cfg(test)]
mod tests {
    use slabring_load::trace::Request;

    use super::*;

    #[test]
    fn policies_are_named_once_each_and_in_order() {
        let parse = |text: &str| text.split(',').map(str::parse).collect::<Result<Vec<Policies>, _>>();
        assert_eq!(Policies::of(&parse("all").unwrap()), PolicyKind::ALL);
        let some = Policies::of(&parse("clock,tinylfu,clock").unwrap());
        assert_eq!(some, [PolicyKind::Clock, PolicyKind::TinyLfu]);
        let first = Policies::of(&parse("clock,all").unwrap());
        assert_eq!((first[0], first.len()), (PolicyKind::Clock, PolicyKind::ALL.len()));
        assert!(parse("nonsense").unwrap_err().contains("clock"));
    }

    #[test]
    fn every_policy_can_be_asked_for_by_its_name() {
        for policy in PolicyKind::ALL {
            assert_eq!(policy.name().parse(), Ok(Policies::One(policy)));
        }
    }

    #[test]
    fn a_capacity_that_is_too_small_is_left_out_and_the_others_stay() {
        let requests = (0..100_u64).map(|key| Request::get(key, 100)).collect();
        let trace = Trace { name: "t".into(), keys: 100, unique_bytes: 1 << 20, requests };
        let shares = ["0.001", "1"].map(|share| share.parse().unwrap());
        let cells = play(&trace, Mode::Bytes, &[PolicyKind::Clock], &shares, 1).unwrap();
        assert_eq!(cells.len(), 1);
        assert_eq!((cells[0].capacity, cells[0].replayed.misses), (1 << 20, 100));
    }
}
