//! The coordinator of those who have none: a list of nodes that an operator gave to each of them. Never removes a node
//! that fails: its keys are errors until it is back, or until all nodes were given another list. Copies, where the list asks for them, are
//! kept up to date all the same, and are there when the operator takes the node out of the list.

use super::{Answer, CallId, Coordinator, Need, Order, Revision, View};
use crate::report::Report;
use crate::ring::RingDocument;
use crate::time::Micros;

/// A ring from a file or a list of peers, the same on all nodes.
#[derive(Debug)]
pub struct Local {
    view: View,
}

impl Local {
    /// Follows `document`.
    pub fn new(document: &RingDocument) -> Self {
        let ring = Some((document.to_json().into_bytes(), Revision(1)));
        Self { view: View { is_complete: true, is_reachable: true, ring, ..View::default() } }
    }

    /// The operator gave another document: read from the file anew, say.
    pub fn replace(&mut self, document: &RingDocument) {
        let (_, Revision(last)) = self.view.ring.take().expect("there is a document from the start");
        self.view.ring = Some((document.to_json().into_bytes(), Revision(last + 1)));
    }
}

impl Coordinator for Local {
    fn view(&self) -> &View {
        &self.view
    }

    fn order(&mut self, _: Order) {
        unreachable!("a list has no conductor");
    }

    fn report(&mut self, _: &Report, _: bool) {}

    fn is_busy(&self) -> bool {
        // Nobody leads and nobody can.
        true
    }

    fn next(&mut self, _: Micros) -> Option<Need> {
        None
    }

    fn wake_at(&self) -> Micros {
        Micros::NEVER
    }

    fn answered(&mut self, _: Micros, _: CallId, _: Answer<'_>) {}
}
