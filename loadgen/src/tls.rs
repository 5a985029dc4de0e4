//! Sealed bytes of a TLS session to plain ones and back, for sessions whose handshake is done. No I/O.

use std::io::{BufRead, Write};

use rustls::{ClientConnection, Error};

/// Takes what came and hands out what it means, piece by piece.
pub(crate) fn open<E: From<Error>>(
    session: &mut ClientConnection,
    mut sealed: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    while !sealed.is_empty() {
        let read = session.read_tls(&mut sealed).map_err(|error| Error::General(error.to_string()))?;
        if read == 0 {
            return Ok(());
        }
        session.process_new_packets()?;
        let mut reader = session.reader();
        while let Ok(plain) = reader.fill_buf()
            && !plain.is_empty()
        {
            let size = plain.len();
            each(plain)?;
            reader.consume(size);
        }
    }
    Ok(())
}

/// Appends all of `plain`, sealed, to `out`.
pub(crate) fn seal(session: &mut ClientConnection, plain: &[u8], out: &mut Vec<u8>) {
    let mut rest = plain;
    while !rest.is_empty() {
        let taken = session.writer().write(rest).expect("it only fills a buffer");
        assert!(taken > 0, "the buffer was flushed");
        rest = &rest[taken..];
        while session.wants_write() {
            session.write_tls(out).expect("a vector takes everything");
        }
    }
}
