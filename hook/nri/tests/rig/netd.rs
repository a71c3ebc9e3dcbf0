//! A netd that writes down what it is told, and answers as it is bidden.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use netd_api::server::{Netd as Service, Server};
use netd_api::v1::{
    DescribeRequest, DescribeResponse, Failure, FailureCode, ReleaseRequest, ReleaseResponse, ResyncRequest,
    ResyncResponse,
};
use ttrpc::asynchronous::TtrpcContext;

use super::until;

/// What it was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// With the target of the descriptor that came along.
    Describe(Box<DescribeRequest>, Option<String>),
    Release(String),
    Resync(Vec<String>),
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    told: Mutex<Vec<Told>>,
    /// Codes for the next descriptions; then all is well.
    pub(crate) refusals: Mutex<Vec<FailureCode>>,
    /// The next description has no answer that could be read as one.
    pub(crate) is_broken: Mutex<bool>,
    /// How long a description takes.
    pub(crate) delay: Mutex<Duration>,
}

/// A listening netd; gone with the value.
pub(crate) struct Netd {
    pub(crate) book: Arc<Book>,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

impl Netd {
    pub(crate) fn start(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let book = Arc::new(Book::default());
        let service = Arc::new(Ear(Arc::clone(&book)));
        let server = runtime.block_on(async { netd_api::bind(socket).unwrap().serve(service) }).unwrap();
        Self { book, _server: server, _runtime: runtime }
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.book.told.lock().unwrap().clone()
    }

    /// Waits until it was told `count` things.
    pub(crate) fn hears(&self, count: usize) -> Vec<Told> {
        until(&format!("{count} words to netd"), || Some(self.told()).filter(|told| told.len() >= count))
    }
}

struct Ear(Arc<Book>);

impl Ear {
    fn note(&self, told: Told) {
        self.0.told.lock().unwrap().push(told);
    }
}

#[async_trait]
impl Service for Ear {
    async fn describe(&self, context: &TtrpcContext, request: DescribeRequest) -> ttrpc::Result<DescribeResponse> {
        let delay = *self.0.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let netns = netd_api::descriptors(context).sandbox_netns.as_ref().map(|fd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            link.display().to_string()
        });
        self.note(Told::Describe(Box::new(request), netns));
        if std::mem::take(&mut *self.0.is_broken.lock().unwrap()) {
            return Err(ttrpc::Error::Others("broken".to_owned()));
        }
        let mut response = DescribeResponse { attachments: 1, ..DescribeResponse::default() };
        let mut refusals = self.0.refusals.lock().unwrap();
        if !refusals.is_empty() {
            let code = refusals.remove(0).into();
            response.failure = Some(Failure { code, message: "not now".to_owned(), ..Failure::default() }).into();
        }
        Ok(response)
    }

    async fn release(&self, _: &TtrpcContext, request: ReleaseRequest) -> ttrpc::Result<ReleaseResponse> {
        self.note(Told::Release(request.container_id));
        Ok(ReleaseResponse::new())
    }

    async fn resync(&self, _: &TtrpcContext, request: ResyncRequest) -> ttrpc::Result<ResyncResponse> {
        assert_eq!(request.source, "nri");
        self.note(Told::Resync(request.sandboxes));
        Ok(ResyncResponse::new())
    }
}
