//! Which sizes are tried, which are believed, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netd_kernel::Path;

use super::{ANEW, EVERY, Found, due, largest, narrow};

#[test]
fn the_largest_size_is_found_in_few_packets() {
    for (low, high) in [(576, 1_500), (1_280, 1_500), (576, 9_000), (1_280, 65_535)] {
        for real in (low..high).step_by(7).chain([1_300, 1_400, 1_472, 1_492].into_iter().filter(|size| *size < high)) {
            let mut tries = 0;
            let found = largest(low, high, |size| {
                tries += 1;
                size <= real
            });
            // That of a link is told, and not what a bridge lets pass beyond it.
            assert!(found <= real && real - found <= 4, "{found} of {real}");
            assert!(tries <= 22, "{tries} for {real}");
        }
    }
    for link in [1_500, 1_492, 1_400, 1_280] {
        assert_eq!(largest(576, 9_000, |size| size <= link + 4), link);
    }
}

fn found(link: u32, mtu: Option<u32>) -> Found {
    let now = Instant::now();
    Found { link, mtu, at: now, tried: Some(now) }
}

fn path(mtu: u32, narrow: Option<u32>) -> Path {
    Path { link: "up0".to_owned(), mtu, narrow, source: None, router: None }
}

#[test]
fn a_way_is_as_narrow_as_anybody_says_who_speaks_of_this_link() {
    let to = |last: u8| [192, 0, 2, last].into();
    let table = [
        (path(1_500, None), found(1_500, Some(1_300)), Some(1_300)),
        (path(1_500, Some(1_200)), found(1_500, Some(1_300)), Some(1_200)),
        (path(1_500, Some(1_400)), found(1_500, None), Some(1_400)),
        (path(9_000, None), found(1_500, Some(1_300)), None),
        (path(1_500, Some(9_000)), found(1_500, Some(1_500)), None),
    ];
    let numbered = || (1..).zip(&table);
    let mut paths = numbered().map(|(last, row)| (to(last), row.0.clone())).collect();
    narrow(&mut paths, &numbered().map(|(last, row)| (to(last), row.1)).collect());
    let found: Vec<Option<u32>> = paths.values().map(|path| path.narrow).collect();
    assert_eq!(found, table.map(|row| row.2));
}

#[test]
fn who_is_new_or_answers_is_measured_and_who_is_silent_seldom() {
    let begin = Instant::now();
    let to = [192, 0, 2, 1].into();
    let paths = BTreeMap::from([(to, path(1_500, None))]);
    let after = |found: Option<(u32, Option<u32>)>, passed: Duration| {
        let measured = found.map(|(link, mtu)| (to, Found { link, mtu, at: begin, tried: Some(begin) }));
        due(&paths, &measured.into_iter().collect(), begin + passed).into_iter().map(|one| one.2).collect::<Vec<_>>()
    };
    assert_eq!(after(None, Duration::ZERO), [None]);
    assert_eq!(after(Some((9_000, Some(9_000))), Duration::ZERO), [None], "of another link");
    assert_eq!(after(Some((1_500, Some(1_300))), EVERY / 2), [], "others came meanwhile");
    assert_eq!(after(Some((1_500, Some(1_300))), EVERY), [Some(1_300)]);
    assert_eq!(after(Some((1_500, Some(1_300))), ANEW), [None], "it may be wider by now");
    assert_eq!(after(Some((1_500, None)), EVERY), []);
    assert_eq!(after(Some((1_500, None)), ANEW), [None]);
    let again = BTreeMap::from([(to, Found { tried: None, ..found(1_500, Some(1_300)) })]);
    assert_eq!(due(&paths, &again, begin).len(), 1, "somebody saw that it is narrower");
}
