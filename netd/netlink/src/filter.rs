//! Socket filters (linux/filter.h): what a socket is not to hear wakes nobody. By a datagram's first message only.

use std::io;
use std::os::fd::AsRawFd;

/// Message types.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Heard<'a> {
    /// These, and no others.
    Only(&'a [u16]),
    /// All but these.
    AllBut(&'a [u16]),
}

/// From now on the kernel drops all other datagrams for `socket`.
pub(crate) fn hear(socket: &netlink_sys::Socket, heard: Heard<'_>) -> io::Result<()> {
    let mut program = program(heard)?;
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "nix has no wrapper for SO_ATTACH_FILTER")]
    // SAFETY: the kernel copies the program of `length` steps; filter and program outlive the call.
    let done = unsafe {
        let value = (&raw const filter).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, value, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One comparison a type, each of which leads to the last step.
fn program(heard: Heard<'_>) -> io::Result<Vec<libc::sock_filter>> {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (kinds, listed, other) = match heard {
        Heard::Only(kinds) => (kinds, u32::MAX, 0),
        Heard::AllBut(kinds) => (kinds, 0, u32::MAX),
    };
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![step(LOAD_HALF, 0, 0, 4)];
    for (at, kind) in kinds.iter().enumerate() {
        let to_the_last = u8::try_from(kinds.len() - at).map_err(io::Error::other)?;
        // A load takes the type for network order.
        program.push(step(JUMP_EQUAL, to_the_last, 0, u32::from(kind.to_be())));
    }
    program.extend([step(RETURN, 0, 0, other), step(RETURN, 0, 0, listed)]);
    Ok(program)
}
