//! What is asked of etcd, by its v3 API, over one connection. What the answers mean for the fleet is `session`'s.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netd_grpc::{Answers, Call, CallError, Connection, Limits, within};
use protobuf::{EnumOrUnknown, Message};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::api::compare::{CompareTarget, Target_union};
use super::api::request_op::Request as Op;
use super::api::watch_request::Request_union;
use super::api::{
    AuthenticateRequest, AuthenticateResponse, Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use super::session::SessionError;
use super::settings::{Access, Endpoint, User};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Metadata of a call that a member without a leader is to refuse at once, and of a watch that is to end where its member has found
/// none for three elections (etcd's `rpctypes.MetadataRequireLeaderKey`).
const WITH_LEADER: (&str, &str) = ("hasleader", "true");

/// gRPC's status for a token that nobody knows, or not any more.
const UNAUTHENTICATED: u32 = 16;

/// A member that has no leader says nothing for as long as that lasts: another one may have one.
const PATIENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);
/// Who is behind a broken link does not refuse.
const TO_CONNECT: Duration = Duration::from_secs(1);
/// A member that is there answers at once to what it need not ask the others. Where machines are slow, leases are long.
const TO_BE_THERE: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(5);
/// Keys of a list that come at once.
const PIECE: i64 = 500;
/// A piece of a list comes in one message, and not by many round trips.
const LIMITS: Limits = Limits { message: 256 << 20, window: 8 << 20 };

/// What a transaction compares a key with.
pub(super) enum Seen {
    Absent,
    Value(Vec<u8>),
}

/// What a transaction does.
pub(super) enum Write {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
    Delete(Vec<u8>),
}

/// A transaction.
pub(super) struct Words {
    pub(super) seen: Vec<(Vec<u8>, Seen)>,
    pub(super) writes: Vec<Write>,
}

/// Whether a transaction was done, and the store's revision then.
pub(super) struct Outcome {
    pub(super) is_done: bool,
    pub(super) revision: i64,
}

/// Everything below a prefix, at one revision.
pub(super) struct Listing {
    pub(super) pairs: Vec<KeyValue>,
    pub(super) revision: i64,
}

/// An open connection to a member.
pub(super) struct Client {
    connection: Connection,
    member: IpAddr,
    user: Option<User>,
    /// Of that user. It may end while the connection does not.
    token: Mutex<Option<String>>,
    patience: Duration,
    to_be_there: Duration,
}

impl Client {
    /// `lease`: how long this node may be silent. A member that is silent is left for another one in good time before that.
    pub(super) async fn open(endpoint: &Endpoint, access: Access, lease: Duration) -> Result<Self, SessionError> {
        let part = |of: u32, limits: RangeInclusive<Duration>| (lease / of).clamp(*limits.start(), *limits.end());
        let (patience, to_be_there) = (part(3, PATIENCE), part(5, TO_BE_THERE));
        let tls = access.tls_for(endpoint)?;
        let (connection, member) = within(patience, Self::connect(endpoint, tls)).await?;
        let token = Mutex::default();
        let client = Self { connection, member, user: access.user, token, patience, to_be_there };
        client.authenticate().await?;
        Ok(client)
    }

    /// Where it is.
    pub(super) fn member(&self) -> IpAddr {
        self.member
    }

    async fn connect(
        endpoint: &Endpoint,
        tls: Option<(TlsConnector, ServerName<'static>)>,
    ) -> Result<(Connection, IpAddr), CallError> {
        let connect = async { TcpStream::connect(&endpoint.address).await.map_err(CallError::from) };
        let stream = within(TO_CONNECT, connect).await?;
        stream.set_nodelay(true)?;
        let (member, base) = (stream.peer_addr()?.ip(), endpoint.base());
        let connection = match tls {
            None => Connection::over(stream, base, LIMITS).await?,
            Some((connector, name)) => Connection::over(connector.connect(name, stream).await?, base, LIMITS).await?,
        };
        Ok((connection, member))
    }

    /// Gets a token where there is a user.
    async fn authenticate(&self) -> Result<(), CallError> {
        let Some(User { name, password }) = self.user.clone() else { return Ok(()) };
        let request = AuthenticateRequest { name, password, ..AuthenticateRequest::default() };
        let call = led(Call::to(AUTHENTICATE));
        let answer: AuthenticateResponse = within(self.patience, self.connection.unary(call, &request)).await?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.token);
        Ok(())
    }

    async fn ask<A: Message>(&self, path: &'static str, request: &impl Message) -> Result<A, CallError> {
        self.ask_within(self.patience, Call::to(path), request).await
    }

    /// A token that is over is renewed once; what it was refused for was not done.
    async fn ask_within<A: Message>(
        &self,
        limit: Duration,
        call: Call<'static>,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let token = self.token();
        let answer = within(limit, self.connection.unary(allowed(call.clone(), token.as_deref()), request)).await;
        let is_over = matches!(answer, Err(CallError::Status { code: UNAUTHENTICATED, .. })) && token.is_some();
        if !is_over {
            return answer;
        }
        self.authenticate().await?;
        within(limit, self.connection.unary(allowed(call, self.token().as_deref()), request)).await
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything whose key begins so, at one revision; a majority of the members agrees on it. It comes in pieces: where all
    /// nodes of a large fleet ask at once, a piece is there in time, and the whole of it would be late for each of them. It is what a
    /// session begins with: a member that is cut off from the others is left for the next one without waiting for it.
    pub(super) async fn list(&self, prefix: Vec<u8>) -> Result<Listing, CallError> {
        let (mut pairs, mut revision, range_end) = (Vec::new(), 0, after(&prefix));
        let mut from = prefix;
        loop {
            let end = range_end.clone();
            let request = RangeRequest { key: from, range_end: end, limit: PIECE, revision, ..RangeRequest::default() };
            let answer: RangeResponse = self.ask_within(self.patience, led(Call::to(RANGE)), &request).await?;
            if revision == 0 {
                revision = answer.header.revision;
            }
            pairs.extend(answer.kvs);
            let Some(KeyValue { key, .. }) = pairs.last().filter(|_| answer.more) else {
                return Ok(Listing { pairs, revision });
            };
            from = [key.as_slice(), &[0]].concat();
        }
    }

    /// Whether the member is there at all: what it last heard of a key, without asking the others.
    pub(super) async fn pulse(&self, key: Vec<u8>) -> Result<(), CallError> {
        let request = RangeRequest { key, serializable: true, count_only: true, ..RangeRequest::default() };
        self.ask_within(self.to_be_there, Call::to(RANGE), &request).await.map(|_: RangeResponse| ())
    }

    /// Does all that it writes, if all that was seen is so still.
    pub(super) async fn txn(&self, words: Words) -> Result<Outcome, CallError> {
        let Words { seen, writes } = words;
        let request = TxnRequest {
            compare: seen.into_iter().map(|(key, seen)| comparison(key, seen)).collect(),
            success: writes.into_iter().map(operation).collect(),
            ..TxnRequest::default()
        };
        let answer: TxnResponse = self.ask(TXN, &request).await?;
        Ok(Outcome { is_done: answer.succeeded, revision: answer.header.revision })
    }

    /// Every change below a prefix from `revision` on. A member that is cut off from the others would go on with what it hears no
    /// more, and ends the watch instead.
    pub(super) async fn watch(&self, prefix: Vec<u8>, revision: i64) -> Result<Watch, CallError> {
        let create = WatchCreateRequest {
            range_end: after(&prefix),
            key: prefix,
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let request_union = Some(Request_union::CreateRequest(create));
        let request = WatchRequest { request_union, ..WatchRequest::default() };
        let token = self.token();
        let call = allowed(led(Call::to(WATCH)), token.as_deref());
        Ok(Watch { answers: self.connection.open_stream(call, &request).await? })
    }

    /// A lease that ends `seconds` after it was last kept alive.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64, CallError> {
        let request = LeaseGrantRequest { TTL: seconds, ..LeaseGrantRequest::default() };
        let answer: LeaseGrantResponse = self.ask(GRANT, &request).await?;
        Ok(answer.ID)
    }

    /// Keeps a lease alive; whether it lives.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<bool, CallError> {
        let request = LeaseKeepAliveRequest { ID: lease, ..LeaseKeepAliveRequest::default() };
        let answer: LeaseKeepAliveResponse = self.ask(KEEP_ALIVE, &request).await?;
        Ok(answer.TTL > 0)
    }
}

/// A running watch. It ends with the connection, or where what it should tell was compacted.
pub(super) struct Watch {
    answers: Answers,
}

impl Watch {
    /// The next changes, whole revisions; `None`: it ended.
    pub(super) async fn next(&mut self) -> Result<Option<WatchResponse>, CallError> {
        let answer: Option<WatchResponse> = self.answers.next().await?;
        Ok(answer.filter(|answer| !answer.canceled))
    }
}

fn led(call: Call<'_>) -> Call<'_> {
    call.with(WITH_LEADER.0, WITH_LEADER.1)
}

fn allowed<'a>(call: Call<'a>, token: Option<&'a str>) -> Call<'a> {
    match token {
        Some(token) => call.with("token", token),
        None => call,
    }
}

fn comparison(key: Vec<u8>, seen: Seen) -> Compare {
    let (target, union) = match seen {
        Seen::Absent => (CompareTarget::CREATE, Target_union::CreateRevision(0)),
        Seen::Value(value) => (CompareTarget::VALUE, Target_union::Value(value)),
    };
    let target = EnumOrUnknown::new(target);
    Compare { target, key, target_union: Some(union), ..Compare::default() }
}

fn operation(write: Write) -> RequestOp {
    let request = match write {
        Write::Put { key, value, lease } => Op::RequestPut(PutRequest { key, value, lease, ..PutRequest::default() }),
        Write::Delete(key) => Op::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
    };
    RequestOp { request: Some(request), ..RequestOp::default() }
}

/// The first key that does not begin with `prefix`; ours end in `/`.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
