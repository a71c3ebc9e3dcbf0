//! The kernel's own floor: attaches and detaches with the fewest messages that give what netd gives. Orders come as lines on
//! standard input; each is answered with the time it took. It keeps no record, leases nothing, and has none of netd's crates.
//!
//! ```text
//! open <bridge, or - for routed links> <table>                      ok
//! add <number> <netns path> <address/prefix> <gateway> <port>       ok <nanoseconds>
//! del <number>                                                      ok <nanoseconds: port shut, rules away> <link gone>
//! ```

mod floor;
mod messages;
mod socket;
mod wire;

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::floor::{Floor, Order};

fn main() -> Result<()> {
    let mut floor = None;
    let mut output = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["open", bridge, table] => {
                floor = Some(Floor::open(Some(*bridge).filter(|bridge| *bridge != "-"), table)?);
                "ok".to_owned()
            }
            ["add", number, netns, address, gateway, port] => {
                let order = Order::parse(number, netns, address, gateway, port)?;
                timed(|| opened(&mut floor)?.add(order))?
            }
            ["del", number] => {
                let number = number.parse()?;
                let start = Instant::now();
                opened(&mut floor)?.shut(number)?;
                let shut = start.elapsed().as_nanos();
                opened(&mut floor)?.unlink(number)?;
                format!("ok {shut} {}", start.elapsed().as_nanos())
            }
            _ => bail!("cannot understand the order {line:?}"),
        };
        writeln!(output, "{answer}").and_then(|()| output.flush())?;
    }
    Ok(())
}

fn opened(floor: &mut Option<Floor>) -> Result<&mut Floor> {
    floor.as_mut().context("nothing is open; the first order is `open`")
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<String> {
    let start = Instant::now();
    work()?;
    Ok(format!("ok {}", start.elapsed().as_nanos()))
}
