//! Forgets the connections of an IPv6 address, one by one. Asked to forget by address, the kernel takes the connections of
//! all other IPv6 addresses instead (`ctnetlink_filter_match_tuple`, net/netfilter/nf_conntrack_netlink.c, compares upside
//! down); seen with Linux 6.18.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use netd_netlink::conntrack::{self, End, Tuple};
use netd_netlink::{NetlinkError, Socket};

use super::refused;
use crate::seam::KernelError;

#[derive(Debug)]
pub(super) struct Flows(Mutex<Socket>);

impl Flows {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Mutex::new(Socket::open_netfilter()?)))
    }

    pub(super) fn forget(&self, address: IpAddr) -> Result<(), KernelError> {
        let failed = |error| refused(format!("drop the connections of {address} from conntrack"), error);
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = conntrack::all_of(address);
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut keep = |body: &[u8]| {
            found.extend(conntrack::read(body).filter(|flow| is_of(flow, address)).map(|_| body.to_owned()))
        };
        socket.each_netfilter(&all, &mut keep).map_err(failed)?;
        let request = conntrack::forget(address, End::Opener);
        for one in found.iter().filter_map(|body| conntrack::forget_one(&request, body)) {
            match socket.command(&one) {
                // It has ended meanwhile.
                Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                done => done.map_err(failed)?,
            }
        }
        Ok(())
    }
}

/// It opened the connection, or answers.
fn is_of((opened, answered): &(Tuple, Tuple), address: IpAddr) -> bool {
    opened.source.0 == address || answered.source.0 == address
}
