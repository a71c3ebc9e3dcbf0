//! The kernel's own part of it, by `ip` and `bridge` as a person would: routes to so many nodes, and the far ends of a tunnel to
//! them. It includes the start of those two programs.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Result;

use super::ground::{Ground, ip, lines};
use crate::samples::Samples;
use crate::space::Space;

pub(super) const CASE: &str = "by-hand";

/// Notes how long `count` nodes take at once, and one more.
pub(super) fn measure(count: usize, runs: usize, samples: &mut Samples) -> Result<()> {
    for _ in 0..runs {
        let ground = Ground::new(0)?;
        for (is_vxlan, all, one) in [(true, "all-vxlan", "one-vxlan"), (false, "all-direct", "one-direct")] {
            let (space, address) = ground.place()?;
            if is_vxlan {
                ip(
                    &space,
                    &format!("link add vx type vxlan id 1 dstport 4789 local {address} nolearning\nlink set vx up\n"),
                )?;
            }
            for (op, from, to) in [(all, 1, count), (one, count, count + 1)] {
                let begin = Instant::now();
                lead(&space, is_vxlan, from..to)?;
                samples.note(CASE, op, count, begin.elapsed());
            }
        }
    }
    Ok(())
}

fn lead(space: &Space, is_vxlan: bool, numbers: std::ops::Range<usize>) -> Result<()> {
    let (mut ends, mut routes) = (String::new(), String::new());
    for number in numbers {
        let (high, low) = (128 + number / 256, number % 256);
        let peer = format!("172.31.{high}.{low}");
        let block = format!("10.64.{}.{}/26", number / 4, number % 4 * 64);
        // Writing to a string does not fail.
        let _ = if is_vxlan {
            let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
            let _ = writeln!(ends, "fdb add {mac} dev vx dst {peer} self permanent");
            writeln!(
                routes,
                "neighbour add {peer} lladdr {mac} dev vx nud permanent\nroute add {block} via {peer} dev vx onlink"
            )
        } else {
            writeln!(routes, "route add {block} via {peer}")
        };
    }
    if is_vxlan {
        lines(space, "bridge", &ends)?;
    }
    ip(space, &routes)
}
