//! Requests about policies: what is in force, putting more in force, and why something passes or not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netd_api::v1::{
    self, ApplyPoliciesRequest, ApplyPoliciesResponse, DeletePolicyRequest, DropsRequest, DropsResponse, Failure,
    FailureCode, PoliciesRequest, PoliciesResponse, PolicyName, ReachRequest, ReachResponse, TestPolicyRequest,
    TestPolicyResponse,
};
use netd_config::Quarantine;
use netd_kernel::Kernel;
use netd_policy::{Direction, Policy, Sandbox, Traffic, oracle};

use super::Service;
use super::attach::Answer;
use super::page::{LONGEST, page, size};
use crate::attachment::Attachment;
use crate::policies::applied::{self, ApplyError, Undo};
use crate::policies::drops::{Denied, Drops};
use crate::policies::enforcer::Force;
use crate::policies::explain::{Explanation, Reason, explain, spoken};
use crate::policies::files::{PolicyFiles, sources};
use crate::policies::follow::{ForceError, in_turn};
use crate::policies::ground::Ground;
use crate::policies::objects::{self, Counted};
use crate::policies::pairs::families;
use crate::policies::{PolicyError, matrix};
use crate::reply::{failure, refusal};

/// A client asks again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Where policies come from and go to.
#[derive(Debug, Clone, Default)]
pub struct PolicyDesk {
    /// The watched directories; the last is for those that are applied.
    pub directories: Vec<PathBuf>,
    /// When who has no labels is held back.
    pub quarantine: Quarantine,
    /// The last denied packets.
    pub drops: Drops,
}

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn policies_call(&self, request: PoliciesRequest) -> Answer<PoliciesResponse> {
        let executor = Arc::clone(&self.lifecycle.executor);
        let counts = tokio::task::spawn_blocking(move || executor.counts()).await;
        // Without numbers the rest is still worth telling.
        let counts = counts.ok().and_then(Result::ok).unwrap_or_default();
        let applied = self.desk.directories.last().cloned().unwrap_or_default();
        // All policies by all sandboxes: no change of policies waits for that.
        let asked = self.lifecycle.policies.ask(move |force| {
            let counted = objects::counted(force.compiler.compiled(), &counts);
            let sandboxes = force.compiler.world().sandboxes.values().filter(|sandbox| sandbox.known.is_none());
            (Arc::clone(&force.files), counted, sandboxes.cloned().collect::<Vec<_>>())
        });
        let (files, counted, sandboxes) = asked.await.ok_or_else(stopped)?;
        let answer = tokio::task::spawn_blocking(move || {
            let PoliciesRequest { brief, paged, from, .. } = request;
            let mut response = PoliciesResponse::new();
            if from == 0 {
                response.files = files.files.iter().map(file).collect();
            }
            let left = if paged { LONGEST.saturating_sub(size(&response)) } else { u64::MAX };
            let text = |text| if brief { String::new() } else { text };
            let all = files.with_texts().skip(from.try_into().unwrap_or(usize::MAX));
            let all = all.map(|(policy, its)| listed((policy, text(its)), &sandboxes, &counted, &applied));
            (response.policies, response.next) = page(all, from, left);
            response
        });
        answer.await.map_err(|error| failure(FailureCode::INTERNAL, &error))
    }

    /// Written down, then in force before the answer; what is not right is not written, and what the kernel refuses does not stay.
    pub(super) async fn apply_call(&self, request: ApplyPoliciesRequest) -> Answer<ApplyPoliciesResponse> {
        let folder = self.desk.directories.last().cloned().ok_or_else(stopped)?;
        let (file, text) = (request.file, request.text);
        let policies = applied::parse(&file, &text).map_err(|error| refusal(FailureCode::INVALID_CONFIG, error))?;
        let parts = applied::apart(&text, &policies);
        let names: Vec<_> = policies.into_iter().map(|policy| policy.name).collect();
        // Nobody reads what may not stay.
        let _turn = self.lifecycle.policies.turn().await;
        let files = self.files().await?;
        applied::refuse_others(&files, &names, &folder).map_err(|error| refusal(FailureCode::CONFLICT, error))?;
        self.changing(move || applied::write(&folder, &files, &parts)).await?;
        let mut response = ApplyPoliciesResponse::new();
        response.applied = names.iter().map(name).collect();
        Ok(response)
    }

    pub(super) async fn delete_call(&self, request: DeletePolicyRequest) -> Answer<()> {
        let folder = self.desk.directories.last().cloned().ok_or_else(stopped)?;
        let wanted = request.name.unwrap_or_default();
        let _turn = self.lifecycle.policies.turn().await;
        let files = self.files().await?;
        let path = applied::path_of(&files, &wanted, &folder).map_err(|error| refusal(FailureCode::CONFLICT, error))?;
        self.changing(move || applied::remove(path)).await
    }

    /// Changes files, and puts that in force. What cannot be is taken back.
    async fn changing(&self, change: impl FnOnce() -> Result<Undo, ApplyError> + Send + 'static) -> Answer<()> {
        let changed = tokio::task::spawn_blocking(change).await;
        let changed = changed.map_err(|error| failure(FailureCode::INTERNAL, &error))?;
        let undo = changed.map_err(|error| failure(FailureCode::INPUT_OUTPUT, &error))?;
        if let Err(error) = self.enforce_files(&undo).await {
            let undone = tokio::task::spawn_blocking(move || undo.take_back()).await;
            undone.map_err(|error| failure(FailureCode::INTERNAL, &error))?;
            // The files are as they were: nothing is wrong with them, and nothing changes.
            drop(self.enforce_files(&Undo::default()).await);
            return Err(error);
        }
        Ok(())
    }

    async fn attachments(&self) -> Answer<Vec<Attachment>> {
        let snapshot = self.lifecycle.owner.snapshot().await;
        Ok(snapshot.map_err(|error| failure(FailureCode::NOT_AVAILABLE, &error))?.attachments)
    }

    async fn files(&self) -> Answer<Arc<PolicyFiles>> {
        self.lifecycle.policies.ask(|force| Arc::clone(&force.files)).await.ok_or_else(stopped)
    }

    /// As the watch will do in a moment, and without harm again. To be asked for in one's turn. Where others' files alone are
    /// refused, `status` names them, and what was `changed` is in force.
    async fn enforce_files(&self, changed: &Undo) -> Answer<()> {
        let (directories, before) = (self.desk.directories.clone(), self.files().await?);
        let read = move || Arc::new(before.next(&sources(&directories, &before)));
        let forced = in_turn(&self.lifecycle, self.desk.quarantine, read).await;
        match forced {
            Err(ForceError::Policy(PolicyError::Kernel(_))) if changed.holds_in(&*self.files().await?) => Ok(()),
            forced => forced.map_err(|error| failure(FailureCode::INTERNAL, &error)),
        }
    }

    pub(super) async fn test_call(&self, request: TestPolicyRequest) -> Answer<TestPolicyResponse> {
        let number = |value: u32, what: &str| {
            u16::try_from(value).map_err(|_| refusal(FailureCode::INVALID_CONFIG, format!("{value} is no {what}")))
        };
        let protocol = number(request.protocol, "protocol")?;
        let protocol = u8::try_from(protocol)
            .map_err(|_| refusal(FailureCode::INVALID_CONFIG, format!("{protocol} is no protocol")))?;
        let traffic = Traffic { protocol, port: number(request.port, "port")? };
        let attachments = self.attachments().await?;
        let answer = self.lifecycle.policies.ask(move |force| {
            let ground = Ground::new(force, &attachments);
            let from = ground.find(force, &request.from)?;
            let to = ground.find(force, &request.to)?;
            explain(&ground, (&from, &to), traffic)
        });
        let explained = answer.await.ok_or_else(stopped)?;
        explained.map(tested).map_err(|error| failure(FailureCode::INVALID_CONFIG, &error))
    }

    pub(super) async fn reach_call(&self, request: ReachRequest) -> Answer<ReachResponse> {
        let then = if request.text.is_empty() {
            None
        } else {
            let parsed = applied::parse(&request.file, &request.text);
            Some(parsed.map_err(|error| refusal(FailureCode::INVALID_CONFIG, error))?)
        };
        let attachments = self.attachments().await?;
        let asked = move |force: &Force| matrix::reach(force, &Ground::new(force, &attachments), then);
        let answer = self.lifecycle.policies.ask(asked).await.ok_or_else(stopped)?;
        answer.map_err(|error| refusal(FailureCode::INVALID_CONFIG, error))
    }

    pub(super) async fn drops_call(&self, request: DropsRequest) -> Answer<DropsResponse> {
        let patience = Duration::from_millis(request.wait_ms.into()).min(LONGEST_WAIT);
        let mut response = DropsResponse::new();
        response.drops = self.desk.drops.after(request.after, patience).await.into_iter().map(dropped).collect();
        Ok(response)
    }
}

fn stopped() -> Failure {
    refusal(FailureCode::NOT_AVAILABLE, "netd's policies do not run; restart netd (`systemctl restart netd`)")
}

fn listed(
    (policy, text): (&Policy, String),
    own: &[Sandbox],
    counted: &BTreeMap<netd_policy::PolicyName, Counted>,
    applied: &std::path::Path,
) -> v1::Policy {
    let mut listed = v1::Policy::new();
    listed.name = Some(name(&policy.name)).into();
    listed.file = policy.source.file.to_string();
    listed.line = u32::try_from(policy.source.line).unwrap_or(u32::MAX);
    for direction in [Direction::Ingress, Direction::Egress] {
        listed.directions.extend(policy.rules(direction).map(|_| spell(direction).to_owned()));
    }
    let selected = own.iter().filter(|sandbox| oracle::is_for(policy, sandbox));
    listed.sandboxes = u32::try_from(selected.count()).unwrap_or(u32::MAX);
    listed.text = text;
    listed.applied = std::path::Path::new(&listed.file).starts_with(applied);
    let Counted { allowed, denied, would_deny } = counted.get(&policy.name).copied().unwrap_or_default();
    (listed.allowed, listed.denied, listed.would_deny) = (allowed, denied, would_deny);
    listed
}

fn file(file: &crate::policies::files::PolicyFile) -> v1::PolicyFile {
    let mut listed = v1::PolicyFile::new();
    listed.file.clone_from(&file.file);
    listed.error = file.error.clone().unwrap_or_default();
    listed.policies = u32::try_from(file.policies.len()).unwrap_or(u32::MAX);
    listed
}

fn name(name: &netd_policy::PolicyName) -> PolicyName {
    let netd_policy::PolicyName { kind, namespace, name } = name.clone();
    PolicyName { kind: kind.as_str().to_owned(), namespace, name, ..PolicyName::new() }
}

fn spell(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// What holds for all is that which does not pass, where some do.
fn tested(explained: Vec<Explanation>) -> TestPolicyResponse {
    let first = explained.iter().find(|one| !one.allowed).or_else(|| explained.first()).cloned();
    let ways = explained.into_iter().map(way).collect();
    let Some(first) = first.map(way) else { return TestPolicyResponse::new() };
    let v1::TestedWay { allowed, from, to, reasons, remedy, .. } = first;
    TestPolicyResponse { allowed, from, to, reasons, remedy, ways, ..TestPolicyResponse::new() }
}

fn way(explained: Explanation) -> v1::TestedWay {
    v1::TestedWay {
        allowed: explained.allowed,
        families: families(&explained.pairs),
        pairs: matrix::told(&explained.pairs),
        from: explained.from,
        to: explained.to,
        published: explained.published.unwrap_or_default(),
        reasons: explained.reasons.into_iter().map(reason).collect(),
        remedy: explained.remedy.unwrap_or_default(),
        ..v1::TestedWay::new()
    }
}

fn reason(reason: Reason) -> v1::Reason {
    let Reason { direction, allowed, rule, place } = reason;
    v1::Reason { direction: spell(direction).to_owned(), allowed, rule, place, ..v1::Reason::new() }
}

fn dropped(denied: Denied) -> v1::Dropped {
    let mut dropped = v1::Dropped::new();
    dropped.sequence = denied.sequence;
    let since = denied.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    dropped.at_unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let traffic = crate::policies::explain::traffic_of(&denied.packet);
    let spoken = spoken(traffic);
    let (protocol, port) = spoken.split_once('/').map_or((spoken.as_str(), ""), |(protocol, port)| (protocol, port));
    dropped.protocol = protocol.to_owned();
    dropped.port = port.to_owned();
    dropped.from = denied.told.from;
    dropped.to = denied.told.to;
    dropped.rule = denied.told.by;
    dropped.place = denied.told.place;
    dropped
}
