use super::*;
use crate::{Limits, Parser, Step};

const ITEM: MetaItem = MetaItem {
    value_len: 5,
    client_flags: 7,
    cas: 99,
    ttl_before: Some(60),
    ttl_touched: Some(300),
    ttl_vivified: Some(30),
    created: false,
    fetched: true,
    idle_seconds: 12,
    tracked: false,
    class: 3,
    size: 104,
};

const NO_WIN: MetaWin = MetaWin { won: false, stale: false, token_sent: false };

#[track_caller]
fn check(line: &str, reply: impl FnOnce(&mut Vec<u8>, &Request<'_>), expected: &str) {
    let value = if line.starts_with("ms") { "hello\r\n" } else { "" };
    let input = format!("{line}\r\n{value}");
    let Step::Request { request, .. } = Parser::default().next(input.as_bytes(), &Limits::default()) else {
        panic!("{line:?} is no request");
    };
    let mut out = Vec::new();
    reply(&mut out, &request);
    assert_eq!(str::from_utf8(&out).unwrap(), expected, "{line:?}");
}

#[track_caller]
fn check_get(line: &str, item: &MetaItem, win: MetaWin, expected: &str) {
    let with_value = expected.starts_with("VA");
    check(
        line,
        |out, request| assert_eq!(meta_get(out, request, item, win), with_value, "{line:?}"),
        expected,
    );
}

#[track_caller]
fn check_status(line: &str, status: MetaStatus, expected: &str) {
    check(line, |out, request| meta_status(out, request, status, &ITEM), expected);
}

#[test]
fn a_hit_shows_what_was_asked_in_the_order_it_was_asked() {
    check_get("mg k", &ITEM, NO_WIN, "HD\r\n");
    check_get("mg k v", &ITEM, NO_WIN, "VA 5\r\n");
    check_get("mg k s v", &ITEM, NO_WIN, "VA 5 s5\r\n");
    check_get("mg k t f c s h l k Oq7", &ITEM, NO_WIN, "HD t60 f7 c99 s5 h1 l12 kk Oq7\r\n");
    check_get("mg k Oq7 k l h s c f t v", &ITEM, NO_WIN, "VA 5 Oq7 kk l12 h1 s5 c99 f7 t60\r\n");
    check_get("mg k  h   u q P0 l", &MetaItem { fetched: false, ..ITEM }, NO_WIN, "HD h0 l12\r\n");
}

#[test]
fn time_to_live_is_the_old_one_until_the_flag_that_changes_it() {
    check_get("mg k t T300", &ITEM, NO_WIN, "HD t60\r\n");
    check_get("mg k T300 t", &ITEM, NO_WIN, "HD t300\r\n");
    check_get("mg k N30 t", &ITEM, NO_WIN, "HD t60\r\n");
    check_get("mg k T300 N30 t", &ITEM, NO_WIN, "HD t300\r\n");
    let created = MetaItem { ttl_before: None, created: true, ..ITEM };
    check_get("mg k t N30", &created, NO_WIN, "HD t-1\r\n");
    check_get("mg k N30 t", &created, NO_WIN, "HD t30\r\n");
    check_get("mg k N30 t T300", &created, NO_WIN, "HD t30\r\n");
    check_get("mg k N30 T300 t", &created, NO_WIN, "HD t300\r\n");
    check_get("mg k T300 N30 t", &created, NO_WIN, "HD t30\r\n");
    check_get("mg k t", &MetaItem { ttl_before: None, ..ITEM }, NO_WIN, "HD t-1\r\n");
    check_get("mg k T0 t", &MetaItem { ttl_touched: None, ..ITEM }, NO_WIN, "HD t-1\r\n");
}

#[test]
fn wins_come_last_in_their_own_order() {
    check_get("mg k v", &ITEM, MetaWin { won: true, ..NO_WIN }, "VA 5 W\r\n");
    check_get("mg k v t", &ITEM, MetaWin { won: true, stale: true, token_sent: false }, "VA 5 t60 X W\r\n");
    check_get("mg k", &ITEM, MetaWin { won: false, stale: true, token_sent: true }, "HD Z X\r\n");
    check_get("mg k", &ITEM, MetaWin { won: true, stale: true, token_sent: true }, "HD Z X W\r\n");
}

#[test]
fn a_client_that_has_the_value_gets_no_value() {
    check_get("mg k v c C99", &ITEM, NO_WIN, "HD c99\r\n");
    check_get("mg k v c C98", &ITEM, NO_WIN, "VA 5 c99\r\n");
}

#[test]
fn a_base64_key_is_shown_as_it_was_sent() {
    check_get("mg Zm9v b k v", &ITEM, NO_WIN, "VA 5 kZm9v b\r\n");
    check_get("mg Zm9v k Ob b", &ITEM, NO_WIN, "HD kZm9v b Ob\r\n");
    check_status("mg Zm9v b k O1", MetaStatus::Miss, "EN kZm9v b O1\r\n");
    check_status("ms Zm9v 5 b k", MetaStatus::Stored, "HD kZm9v b\r\n");
}

#[test]
fn a_status_shows_key_and_opaque_and_for_a_store_its_cas_and_size() {
    check_status("mg k v t s c f k O7", MetaStatus::Miss, "EN kk O7\r\n");
    check_status("ms k 5 c k s O7 t f", MetaStatus::Stored, "HD c99 kk s5 O7\r\n");
    check_status("md k O7 k c t", MetaStatus::Stored, "HD O7 kk\r\n");
    check_status("md k k", MetaStatus::NotFound, "NF kk\r\n");
    check_status("ma k O7 t c k", MetaStatus::NotFound, "NF O7 kk\r\n");
    check_status("me k", MetaStatus::Miss, "EN\r\n");
    let not_stored = MetaItem { value_len: 5, ..MetaItem::default() };
    let reply =
        |out: &mut Vec<u8>, request: &Request<'_>| meta_status(out, request, MetaStatus::Exists, &not_stored);
    check("ms k 5 c s C1", reply, "EX c0 s5\r\n");
}

#[test]
fn quiet_hides_the_nominal_end_and_nothing_else() {
    check_status("mg k q k O1", MetaStatus::Miss, "");
    for line in ["ms k 5 q c", "md k q k"] {
        check_status(line, MetaStatus::Stored, "");
    }
    for line in ["ms k 5 q", "md k q", "ma k q v"] {
        check_status(line, MetaStatus::NotStored, "NS\r\n");
        check_status(line, MetaStatus::Exists, "EX\r\n");
        check_status(line, MetaStatus::NotFound, "NF\r\n");
    }
    check_get("mg k q v", &ITEM, NO_WIN, "VA 5\r\n");
    check_get("mg k q", &ITEM, NO_WIN, "HD\r\n");
}

#[test]
fn arithmetic_shows_its_value_only_when_asked() {
    let reply = |out: &mut Vec<u8>, request: &Request<'_>| meta_arithmetic(out, request, &ITEM, u64::MAX);
    check("ma k", reply, "HD\r\n");
    check("ma k v", reply, "VA 20\r\n18446744073709551615\r\n");
    check("ma k t c v k O1 T300 s", reply, "VA 20 t60 c99 kk O1\r\n18446744073709551615\r\n");
    check("ma k N30 t", reply, "HD t60\r\n");
    check("ma k q v", reply, "");
}

#[test]
fn debug_shows_an_item_to_people() {
    check(
        "me k",
        |out, request| meta_debug(out, request, &ITEM),
        "ME k exp=60 la=12 cas=99 fetch=yes cls=3 size=104\r\n",
    );
    let item = MetaItem { ttl_before: None, fetched: false, ..ITEM };
    check(
        "me Zm9v b",
        |out, request| meta_debug(out, request, &item),
        "ME Zm9v exp=-1 la=12 cas=99 fetch=no cls=3 size=104\r\n",
    );
}
