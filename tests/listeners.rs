//! Where a server listens and what is spoken there.
