//! The page that Prometheus scrapes: HTTP on a thread of its own, apart from the workers.
//!
//! It answers GET and HEAD of `/metrics`, each time from a new look, and `/`, which says so. A client is given some seconds
//! and one answer, then its connection is closed. Of many at a time the oldest is closed, so whoever is slow, or silent,
//! or both in large numbers, keeps nobody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use executor_shm::InstanceName;
use executor_shm::inspect::Inspector;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::place::keep_off;
use super::{Dialect, exposition};
use crate::exit::one_line;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For a request and its answer.
const CLIENT_TIME: Duration = Duration::from_secs(10);
/// Bytes of the head of a request, and how many headers.
const HEAD_BYTES_MAX: usize = 8192;
const HEADERS_MAX: usize = 64;
/// Between two tries to listen, or to accept.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries that fail before anything is said: whoever served before may be about to end.
const SILENT_TRIES: u32 = 10;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {reason}; {cure}")]
pub(crate) struct PageError {
    address: SocketAddr,
    reason: String,
    cure: &'static str,
    is_taken: bool,
}

impl PageError {
    fn new(address: SocketAddr, error: &std::io::Error) -> Self {
        let is_taken = error.kind() == ErrorKind::AddrInUse;
        Self { address, reason: one_line(error), cure: cure(error), is_taken }
    }

    /// One clause without the cure.
    pub(crate) fn fact(&self) -> String {
        format!("metrics cannot be served on {}: {}", self.address, self.reason)
    }

    pub(crate) const fn cure(&self) -> &'static str {
        self.cure
    }

    /// Whether somebody else listens there.
    pub(crate) const fn is_taken(&self) -> bool {
        self.is_taken
    }
}

/// Takes the address.
///
/// # Errors
///
/// It is taken, is not this machine's, or may not be taken.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, PageError> {
    let refused = |error: std::io::Error| PageError::new(address, &error);
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// Whether the address could be taken now. Nothing listens meanwhile, so nobody else is refused it for that.
///
/// # Errors
///
/// As [`listen`].
pub(crate) fn probe(address: SocketAddr) -> Result<(), PageError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?; // as `listen` does
        socket.bind(address)
    };
    bound().map_err(|error| PageError::new(address, &error))
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "choose another port with --metrics, or end what listens there (ss -ltnp tells)",
        ErrorKind::AddrNotAvailable => "choose an address of this machine with --metrics (ip address tells)",
        ErrorKind::PermissionDenied => "choose a port from 1024 on with --metrics",
        _ if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            "a sandbox keeps it off the network; under systemd: PrivateNetwork=no, and AF_INET and AF_INET6 in \
             RestrictAddressFamilies="
        }
        _ => "choose another address with --metrics, or leave it out",
    }
}

/// The thread. Dropped, it ends, and with it all connections.
#[derive(Debug)]
pub(crate) struct Page {
    address: SocketAddr,
    /// Dropped, it tells the thread to end.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Page {
    /// Answers on `address`, where `listener` listens already. Without a listener, or if that listened elsewhere, it tries
    /// until it can, and says so if that takes long.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub(crate) fn open(
        instance: &InstanceName,
        address: SocketAddr,
        listener: Option<TcpListener>,
        workers: &[u32],
    ) -> std::io::Result<Self> {
        let listener = listener.or_else(|| listen(address).ok());
        let bound = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (instance, workers) = (instance.clone(), workers.to_vec());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let thread = std::thread::Builder::new().name("executor-page".to_owned()).spawn(move || {
            keep_off(&workers);
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, address, instance) => {}
                }
            });
        })?;
        Ok(Self { address: bound.unwrap_or(address), stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, or will.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What whoever started it should know.
    pub(crate) fn warning(&self) -> Option<String> {
        (!self.address.ip().is_loopback()).then(|| {
            format!(
                "metrics on {} have no password: whoever reaches this address reads them; for this machine alone: \
                 --metrics 127.0.0.1:{}",
                self.address,
                self.address.port(),
            )
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn serve(listener: Option<TcpListener>, address: SocketAddr, instance: InstanceName) {
    let listener = match listener {
        Some(listener) => listener,
        None => listen_in_time(address).await,
    };
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut open: VecDeque<tokio::task::JoinHandle<()>> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await; // out of descriptors, mostly: that passes
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(answer(stream, instance.clone())));
    }
}

async fn listen_in_time(address: SocketAddr) -> TcpListener {
    let mut tries = 0;
    loop {
        match listen(address) {
            Ok(listener) => {
                if tries >= SILENT_TRIES {
                    eprintln!("executord: metrics on {address} now");
                }
                return listener;
            }
            Err(error) => {
                tries += 1;
                if tries == SILENT_TRIES {
                    eprintln!("executord: {error}; trying on");
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn answer(stream: tokio::net::TcpStream, instance: InstanceName) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = respond(&request, &instance);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(CLIENT_TIME, connection).await; // whoever is gone, slow or wrong hears no more
}

fn respond<B>(request: &Request<B>, instance: &InstanceName) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let is_known = ["/", "/metrics"].contains(&request.uri().path());
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let (status, kind, text) = match request.uri().path() {
        _ if !is_known => (StatusCode::NOT_FOUND, TEXT, "the metrics are at /metrics\n".to_owned()),
        _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned()),
        "/metrics" => match Inspector::open(instance) {
            Ok(inspector) => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let dialect = Dialect::accepted(accept.unwrap_or_default());
                (StatusCode::OK, dialect.content_type(), exposition(inspector.look(), dialect))
            }
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", one_line(&error))),
        },
        _ => (StatusCode::OK, TEXT, format!("executor instance {instance}: the metrics are at /metrics\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// An address that is free, and stays so: nobody else has this network.
    fn address(last: u8) -> SocketAddr {
        let pid = std::process::id();
        SocketAddr::from(([127, 128 | (pid >> 8) as u8 & 127, pid as u8, last], 9464))
    }

    fn open(address: SocketAddr, listener: Option<TcpListener>) -> Page {
        Page::open(&InstanceName::default(), address, listener, &[]).unwrap()
    }

    #[test]
    fn a_page_ends_when_it_is_dropped_and_its_address_is_free_again() {
        let address = address(1);
        for _ in 0..3 {
            let page = open(address, Some(listen(address).unwrap()));
            let client = TcpStream::connect(page.address()).unwrap();
            drop(page);
            assert!(TcpStream::connect(address).is_err(), "somebody listens still");
            drop(client);
        }
    }

    #[test]
    fn a_page_without_a_listener_takes_the_address_once_it_is_free() {
        let address = address(2);
        let other = TcpListener::bind(address).unwrap();
        assert!(listen(address).unwrap_err().to_string().contains("choose another port"));
        let page = open(address, None);
        assert_eq!(page.address(), address);
        drop(other);
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(2)); // between two looks
        }
        drop(page);
    }

    #[test]
    fn a_page_that_waits_for_its_address_ends_too() {
        let address = address(4);
        let _other = TcpListener::bind(address).unwrap();
        drop(open(address, None));
    }

    #[test]
    fn a_sandbox_is_told_as_such() {
        let refused = cure(&Errno::EAFNOSUPPORT.into());
        assert!(refused.contains("RestrictAddressFamilies="), "{refused}");
        assert!(!cure(&Errno::ENOMEM.into()).contains("sandbox"));
    }

    #[test]
    fn only_an_address_of_this_machine_alone_is_not_warned_of() {
        for (text, warns) in [("127.0.0.1:0", false), ("127.1.2.3:0", false), ("0.0.0.0:0", true)] {
            let page = open(text.parse().unwrap(), None);
            assert_eq!(page.warning().is_some(), warns, "{text}");
        }
    }
}
