//! Who reaches whom: asks, and shows expected against actual as a table. Who answers is `web`'s or a container's own server.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::Place;

/// After so long, nothing comes any more.
const PATIENCE: Duration = Duration::from_secs(3);
/// What should come may take longer on a machine under load.
const MORE_PATIENCE: Duration = Duration::from_secs(10);
/// A datagram that gets lost is sent again.
const UDP_PAUSE: Duration = Duration::from_millis(500);

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection with an HTTP request.
    Tcp,
    /// A datagram, again when it stays without an answer.
    Udp,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This text.
    Said(String),
    /// A reset, or an ICMP error.
    Refused,
    /// Nothing in time.
    Silent,
}

impl Answer {
    /// What an error says about the other side; nothing where it is about this one.
    fn of_error(kind: ErrorKind) -> Option<Self> {
        let is_silence = matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock);
        let is_refusal = matches!(
            kind,
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::PermissionDenied
        );
        if is_silence { Some(Self::Silent) } else { is_refusal.then_some(Self::Refused) }
    }
}

/// What should come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// A text that begins so.
    Said(String),
    /// A reset, or an ICMP error.
    Refused,
    /// Nothing in time.
    Silent,
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(text) => f.write_str(text.trim()),
            Self::Refused => f.write_str("REFUSED"),
            Self::Silent => f.write_str("SILENT"),
        }
    }
}

impl Expect {
    fn patience(&self) -> Duration {
        match self {
            Self::Said(_) | Self::Refused => MORE_PATIENCE,
            Self::Silent => PATIENCE,
        }
    }

    /// A text that begins so.
    #[must_use]
    pub fn said(start: &str) -> Self {
        Self::Said(start.to_owned())
    }

    fn is_met_by(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Self::Said(start), Answer::Said(text)) => text.starts_with(start.as_str()),
            (Self::Refused, Answer::Refused) | (Self::Silent, Answer::Silent) => true,
            (Self::Said(_) | Self::Refused | Self::Silent, _) => false,
        }
    }
}

impl Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(text) => f.write_str(text.trim()),
            Self::Refused => f.write_str("REFUSED"),
            Self::Silent => f.write_str("SILENT"),
        }
    }
}

/// Asks once from `place`.
///
/// # Errors
/// The place cannot be entered, or it has no socket to give.
pub fn ask(place: &Place, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
    ask_within(place, protocol, to, PATIENCE)
}

fn ask_within(place: &Place, protocol: Protocol, to: SocketAddr, patience: Duration) -> Result<Answer> {
    let asked = place.run(|| match protocol {
        Protocol::Tcp => ask_tcp(to, patience),
        Protocol::Udp => ask_udp(to, patience),
    })?;
    asked.map(Answer::Said).or_else(|error| Answer::of_error(error.kind()).ok_or_else(|| error.into()))
}

fn ask_tcp(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body).to_owned())
}

fn ask_udp(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(UDP_PAUSE))?;
    let mut silence = io::Error::from(ErrorKind::TimedOut);
    let begin = Instant::now();
    while begin.elapsed() < patience {
        socket.send(b"who?")?;
        let mut answer = [0; 1024];
        match socket.recv(&mut answer) {
            Ok(length) => return Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => silence = error,
            Err(error) => return Err(error),
        }
    }
    Err(silence)
}

/// A table of who asks (rows) and whom (columns).
#[derive(Debug, Default)]
pub struct Probe {
    rows: Vec<(String, Place)>,
    columns: Vec<Column>,
    exceptions: BTreeMap<(String, String), Expect>,
}

#[derive(Debug)]
struct Column {
    name: String,
    protocol: Protocol,
    to: SocketAddr,
    expect: Expect,
}

impl Probe {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One who asks.
    #[must_use]
    pub fn from(mut self, name: &str, place: &Place) -> Self {
        self.rows.push((name.to_owned(), place.clone()));
        self
    }

    /// One who is asked, and what everybody should get.
    #[must_use]
    pub fn to(mut self, name: &str, protocol: Protocol, to: SocketAddr, expect: Expect) -> Self {
        self.columns.push(Column { name: name.to_owned(), protocol, to, expect });
        self
    }

    /// What `row` should get from `column`, unlike everybody.
    #[must_use]
    pub fn except(mut self, row: &str, column: &str, expect: Expect) -> Self {
        self.exceptions.insert((row.to_owned(), column.to_owned()), expect);
        self
    }

    /// Asks all at once.
    ///
    /// # Errors
    /// An answer is not the expected one: the text is the table. Or an exception names no cell.
    pub fn check(&self) -> Result<String> {
        for (row, column) in self.exceptions.keys() {
            let known = self.rows.iter().any(|(name, _)| name == row) && self.columns.iter().any(|c| c.name == *column);
            if !known {
                bail!("the exception ({row}, {column}) names no cell of the table");
            }
        }
        let answers = self.ask_all()?;
        let table = self.table(&answers);
        let wrong = self.cells(&answers).filter(|(expect, answer)| !expect.is_met_by(answer)).count();
        if wrong > 0 {
            bail!("{wrong} answers are not the expected ones (rows ask, columns answer):\n{table}");
        }
        Ok(table)
    }

    fn ask_all<'a>(&'a self) -> Result<Vec<Vec<Answer>>> {
        thread::scope(|scope| {
            let rows: Vec<Vec<_>> = self
                .rows
                .iter()
                .map(|(row, place)| {
                    let asked = self.columns.iter().map(|column| (column, self.expected(row, column).patience()));
                    let ask = |(column, patience): (&'a Column, _)| {
                        scope.spawn(move || ask_within(place, column.protocol, column.to, patience))
                    };
                    asked.map(ask).collect()
                })
                .collect();
            rows.into_iter()
                .map(|row| {
                    row.into_iter()
                        .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                        .collect()
                })
                .collect()
        })
    }

    fn expected(&self, row: &str, column: &Column) -> Expect {
        self.exceptions.get(&(row.to_owned(), column.name.clone())).unwrap_or(&column.expect).clone()
    }

    fn cells<'a>(&'a self, answers: &'a [Vec<Answer>]) -> impl Iterator<Item = (Expect, &'a Answer)> {
        self.rows.iter().zip(answers).flat_map(|((row, _), answers)| {
            self.columns.iter().zip(answers).map(|(column, answer)| (self.expected(row, column), answer))
        })
    }

    fn table(&self, answers: &[Vec<Answer>]) -> String {
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(self.columns.iter().map(|column| column.name.clone()));
        for ((row, _), answers) in self.rows.iter().zip(answers) {
            let mut line = vec![row.clone()];
            for (column, answer) in self.columns.iter().zip(answers) {
                let expect = self.expected(row, column);
                let note = if expect.is_met_by(answer) { String::new() } else { format!(" (expected {expect})") };
                line.push(format!("{answer}{note}"));
            }
            lines.push(line);
        }
        aligned(&lines)
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Answer, Expect, Probe, Protocol, ask};
    use crate::{Place, Web};

    #[test]
    fn answers_are_told_apart_and_a_wrong_expectation_prints_the_table() {
        let place = Place::fresh().unwrap();
        let _web = Web::start(&place, "here", 80).unwrap();
        let at = |port: u16| (Ipv4Addr::LOCALHOST, port).into();
        place.ip("route add 203.0.113.0/24 dev lo").unwrap();
        let said = Answer::Said("here 127.0.0.1\n".to_owned());
        assert_eq!(ask(&place, Protocol::Tcp, at(80)).unwrap(), said);
        assert_eq!(ask(&place, Protocol::Udp, at(80)).unwrap(), said);
        assert_eq!(ask(&place, Protocol::Tcp, ([203, 0, 113, 1], 80).into()).unwrap(), Answer::Silent);
        assert_eq!(ask(&place, Protocol::Udp, ([203, 0, 113, 1], 80).into()).unwrap(), Answer::Silent);
        assert_eq!(ask(&place, Protocol::Tcp, at(81)).unwrap(), Answer::Refused);
        assert_eq!(ask(&place, Protocol::Udp, at(81)).unwrap(), Answer::Refused);
        let probe = Probe::new().from("me", &place).to("it", Protocol::Tcp, at(80), Expect::Said("here".to_owned()));
        assert_eq!(probe.check().unwrap(), "    it\nme  here 127.0.0.1\n");
        let error = probe.except("me", "it", Expect::Silent).check().unwrap_err().to_string();
        assert!(error.contains("me  here 127.0.0.1 (expected SILENT)"), "{error}");
    }

    #[test]
    fn an_exception_that_names_no_cell_is_an_error() {
        assert!(Probe::new().except("nobody", "nothing", Expect::Silent).check().is_err());
    }
}
