//! `cluster scrub`: has every node compare its copies with what their primaries have, now, and tells what came of it. The nodes do it
//! all the time, slowly; whoever interrupts this leaves nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use slabring_client::Client;

use crate::failure::Failure;
use crate::table::Table;
use crate::{Printer, Verdict};

/// Time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What one node, as primary, said of others' copies since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    compared: u64,
    gone: u64,
    differed: u64,
    /// Shards that are still at it.
    open: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            compared: self.compared.saturating_sub(before.compared),
            gone: self.gone.saturating_sub(before.gone),
            differed: self.differed.saturating_sub(before.differed),
            open: self.open,
        }
    }
}

type ByServer = BTreeMap<String, Counts>;

/// Compares all copies. [`Verdict::No`]: some differed.
pub(crate) fn run(client: &Client, printer: &Printer) -> Result<Verdict, Failure> {
    let before = counts(client)?;
    for (_, begun) in client.stats("scrub") {
        begun?;
    }
    let after = wait(client)?;
    let counts: ByServer = after
        .into_iter()
        .map(|(server, counts)| {
            let before = before.get(&server).copied().unwrap_or_default();
            (server, counts.since(before))
        })
        .collect();
    printer.print(|| as_json(&counts), || as_text(&counts))?;
    Ok(Verdict::of(counts.values().all(|counts| counts.differed == 0)))
}

/// Waits until all shards have shown all their copies, and the last of them has been looked at.
fn wait(client: &Client) -> Result<ByServer, Failure> {
    let bar = ProgressBar::new_spinner();
    let mut last = ByServer::new();
    loop {
        std::thread::sleep(LOOK_EVERY);
        let now = counts(client)?;
        bar.set_message(format!(
            "{} copies compared",
            now.values().map(|counts| counts.compared).sum::<u64>()
        ));
        bar.tick();
        // The nodes go on comparing slowly, so the last look may never be like the one before to the last copy.
        let is_over = |counts: &ByServer| counts.values().all(|counts| counts.open == 0);
        if !last.is_empty() && is_over(&last) && is_over(&now) {
            bar.finish_and_clear();
            return Ok(now);
        }
        last = now;
    }
}

fn counts(client: &Client) -> Result<ByServer, Failure> {
    let mut counts = ByServer::new();
    for (server, stats) in client.stats("") {
        let stats = stats?;
        let value = |name: &str| {
            let name = format!("slabring_replication_scrub_{name}");
            stats.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.parse().ok())
        };
        let [Some(compared), Some(gone), Some(differed), Some(open)] =
            ["compared", "gone", "differed", "open"].map(value)
        else {
            return Err(Failure::Impossible(format!("{server} has no copies to compare")));
        };
        counts.insert(server.to_string(), Counts { compared, gone, differed, open });
    }
    Ok(counts)
}

fn as_text(counts: &ByServer) -> String {
    let mut table = Table::new(["primary", "copies compared", "evicted here", "differed and mended"]);
    for (server, Counts { compared, gone, differed, .. }) in counts {
        table.row([server.clone(), compared.to_string(), gone.to_string(), differed.to_string()]);
    }
    table.to_string()
}

fn as_json(counts: &ByServer) -> Value {
    let one = |(server, Counts { compared, gone, differed, .. }): (&String, &Counts)| {
        (server.clone(), json!({ "compared": compared, "gone": gone, "differed": differed }))
    };
    Value::Object(counts.iter().map(one).collect())
}
