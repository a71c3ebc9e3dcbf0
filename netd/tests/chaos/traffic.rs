//! Echoes between sandboxes while things happen to their nodes: each datagram is counted, and so is each answer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::clock::is_guest;
use crate::rig::nodes::Sandbox;

const PORT: u16 = 7;
const EVERY: Duration = Duration::from_millis(10);
/// An emulator has enough to do.
const EVERY_IN_A_GUEST: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// One sandbox asks another, again and again.
pub(crate) struct Flow {
    pub(crate) from: String,
    pub(crate) to: String,
    over: Arc<AtomicBool>,
    asked: Arc<Mutex<BTreeMap<u64, Asked>>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    answered: bool,
}

/// So that what a busy machine reads late is not lost.
fn with_room(at: &str) -> UdpSocket {
    const ROOM: usize = 8 << 20;
    let socket = UdpSocket::bind(at).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM).unwrap();
    socket
}

/// Gives every datagram back.
pub(crate) fn serve(sandbox: &Sandbox) {
    sandbox.space.run(|| {
        let socket = with_room(&format!("0.0.0.0:{PORT}"));
        std::thread::spawn(move || {
            let mut octets = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut octets) {
                drop(socket.send_to(&octets[..length], peer));
            }
        });
    });
}

impl Flow {
    pub(crate) fn begin(from: &Sandbox, to: &Sandbox) -> Self {
        // Not connected: a refusal must not eat the datagram after it.
        let socket = from.space.run(|| with_room("0.0.0.0:0"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let address: SocketAddr = format!("{}:{PORT}", to.v4).parse().unwrap();
        let asking = std::thread::spawn({
            let (socket, over, asked) = (socket.try_clone().unwrap(), Arc::clone(&over), Arc::clone(&asked));
            move || ask(&socket, address, &over, &asked)
        });
        let hearing = std::thread::spawn({
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            move || hear(&socket, &over, &asked)
        });
        Self { from: from.v4.clone(), to: to.v4.clone(), over, asked, threads: vec![asking, hearing] }
    }

    /// How many of those asked before now were not answered, with patience for the late.
    pub(crate) fn lost(&self) -> usize {
        let now = Instant::now();
        let missing = || {
            let asked = self.asked.lock().unwrap();
            asked.values().filter(|one| one.at < now && !one.answered).count()
        };
        while missing() > 0 && now.elapsed() < PATIENCE {
            sleep(EVERY);
        }
        missing()
    }

    /// When the first that was answered was asked, of those from `since` on.
    pub(crate) fn answered_since(&self, since: Instant) -> Option<Instant> {
        let asked = self.asked.lock().unwrap();
        asked.values().find(|one| one.at >= since && one.answered).map(|one| one.at)
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn ask(socket: &UdpSocket, to: SocketAddr, over: &AtomicBool, asked: &Mutex<BTreeMap<u64, Asked>>) {
    let every = if is_guest() { EVERY_IN_A_GUEST } else { EVERY };
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        asked.lock().unwrap().insert(number, Asked { at: Instant::now(), answered: false });
        drop(socket.send_to(&number.to_be_bytes(), to));
        number += 1;
        sleep(every);
    }
}

fn hear(socket: &UdpSocket, over: &AtomicBool, asked: &Mutex<BTreeMap<u64, Asked>>) {
    let mut octets = [0; 8];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut octets).is_ok()
            && let Some(one) = asked.lock().unwrap().get_mut(&u64::from_be_bytes(octets))
        {
            one.answered = true;
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
