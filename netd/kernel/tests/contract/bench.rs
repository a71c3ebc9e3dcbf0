//! Where a law is put to a kernel: the kernel, and sandboxes that are made and killed. The laws know no more of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netd_kernel::{FakeKernel, Kernel, Key, LinuxKernel, NetnsId, Objects, Sandbox, Scope, Step};
use nix::sched::{CloneFlags, unshare};

use crate::objects::link;

pub(crate) trait Bench {
    fn kernel(&self) -> &dyn Kernel;

    /// A new sandbox, which lives until it is killed.
    fn sandbox(&self) -> NetnsId;

    /// The sandbox for one request.
    fn enter(&self, id: NetnsId) -> Sandbox;

    fn kill(&self, id: NetnsId);
}

impl dyn Bench + '_ {
    /// Takes steps for a sandbox.
    pub(crate) fn apply(&self, id: NetnsId, steps: &[Step]) -> Result<(), netd_kernel::ApplyError> {
        self.kernel().apply(steps, Some(&self.enter(id)))
    }

    pub(crate) fn apply_on_node(&self, steps: &[Step]) -> Result<(), netd_kernel::ApplyError> {
        self.kernel().apply(steps, None)
    }

    /// The node's objects, and `eth0` of the sandbox.
    pub(crate) fn observe(&self, id: NetnsId) -> Objects {
        let mut objects = self.observe_node();
        objects.extend(self.kernel().observe(Scope::Sandbox(&self.enter(id), &link("eth0"))).unwrap());
        objects
    }

    pub(crate) fn observe_node(&self) -> Objects {
        self.kernel().observe(Scope::Node).unwrap()
    }

    pub(crate) fn has(&self, key: &Key) -> bool {
        self.observe_node().contains_key(key)
    }

    /// Asserts that this is what is observed. A port that opens is seen as shut until a worker of the kernel has heard of
    /// its carrier.
    pub(crate) fn settles(&self, id: NetnsId, desired: &Objects, when: &str) {
        let start = Instant::now();
        while self.observe(id) != *desired && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.observe(id), *desired, "{when}");
    }

    /// The kernel takes a namespace apart behind the back of all.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what} does not come about");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[derive(Default)]
pub(crate) struct Fake {
    kernel: FakeKernel,
    count: AtomicU64,
}

impl Fake {
    pub(crate) fn of(kernel: FakeKernel) -> Self {
        Self { kernel, count: AtomicU64::default() }
    }
}

impl Bench for Fake {
    fn kernel(&self) -> &dyn Kernel {
        &self.kernel
    }

    fn sandbox(&self) -> NetnsId {
        NetnsId(self.count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn enter(&self, id: NetnsId) -> Sandbox {
        self.kernel.sandbox(id.0)
    }

    fn kill(&self, id: NetnsId) {
        self.kernel.kill_sandbox(id);
    }
}

pub(crate) struct Linux {
    kernel: LinuxKernel,
    sandboxes: Mutex<BTreeMap<NetnsId, OwnedFd>>,
}

impl Linux {
    /// Runs `law` on a thread in a namespace that dies with it.
    pub(crate) fn on_a_node(law: impl FnOnce(&Self) + Send + 'static) {
        let node = || {
            enter_new_namespace();
            // A new namespace has the switch as the machine has it.
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{switch}"), "0").unwrap();
            }
            law(&Self { kernel: LinuxKernel::new("netd", "nd").unwrap(), sandboxes: Mutex::default() });
        };
        if let Err(panic) = std::thread::spawn(node).join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
}

impl Bench for Linux {
    fn kernel(&self) -> &dyn Kernel {
        &self.kernel
    }

    fn sandbox(&self) -> NetnsId {
        let made = std::thread::spawn(|| {
            enter_new_namespace();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        let fd = made.join().unwrap();
        let id = self.kernel.identify(fd.try_clone().unwrap()).unwrap().id;
        self.sandboxes.lock().unwrap().insert(id, fd);
        id
    }

    fn enter(&self, id: NetnsId) -> Sandbox {
        let fd = self.sandboxes.lock().unwrap()[&id].try_clone().unwrap();
        self.kernel.identify(fd).unwrap()
    }

    fn kill(&self, id: NetnsId) {
        self.sandboxes.lock().unwrap().remove(&id);
    }
}
