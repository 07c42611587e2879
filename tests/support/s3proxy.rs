//! A proxy in front of an S3 server that makes trouble on purpose. The same seed and the same
//! requests in the same order give the same trouble.
//!
//! It reads each request whole, passes it on over a connection of its own, reads the answer whole,
//! and gives that back, except where it was told not to. Plain HTTP/1.1 over plain sockets, so that
//! it can also do what no library would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Rng;

/// One way for a request to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not passed on; 503 without a body.
    Unavailable,
    /// Not passed on; 503 with the code `SlowDown`.
    SlowDown,
    /// Not passed on; 500 with the code `InternalError`.
    Internal,
    /// Not passed on; 400 with the code `ExpiredToken`.
    Expired,
    /// Not passed on; the clock is said to be an hour off.
    Skewed,
    /// Not passed on if it is signed for another region than `us-east-1`; 301 that names it.
    Elsewhere,
    /// Not passed on; the connection is reset.
    Reset,
    /// Passed on; the connection is reset before the answer.
    LostReply,
    /// Passed on after a while, when the client was already told that the connection broke.
    Late,
    /// Passed on; the connection is reset in the middle of the answer's body.
    ResetInBody,
    /// Passed on; the connection is closed in the middle of the answer's body.
    Truncated,
    /// Passed on; the answer comes in small pieces.
    Slow,
    /// Passed on; the answer comes late.
    Delayed,
    /// Passed on twice; the second answer is given back.
    Twice,
    /// Passed on; 412 is turned into 200, as if the server did not know conditions.
    Careless,
}

/// All that a client has to get over without a word.
pub const PASSING: [Fault; 12] = [
    Fault::Unavailable,
    Fault::SlowDown,
    Fault::Internal,
    Fault::Skewed,
    Fault::Reset,
    Fault::LostReply,
    Fault::Late,
    Fault::ResetInBody,
    Fault::Truncated,
    Fault::Slow,
    Fault::Delayed,
    Fault::Twice,
];

/// What the proxy does.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// One request in so many goes wrong, on average; 0 is none.
    pub one_in: u64,
    /// In one of these ways.
    pub faults: Vec<Fault>,
    /// How long each request takes in addition.
    pub latency: Duration,
}

/// A request that came, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Such as `PUT`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Length of its body.
    pub body_bytes: usize,
    /// Its headers, as they came.
    pub headers: String,
    /// How many requests were sent one after the other up to this one, it included: one more than the
    /// most of those that were answered before it came. With latency, and for as long as a client
    /// does not wait for anything else, that is how many round trips it had to wait for.
    pub depth: usize,
}

impl Seen {
    /// Whether it has a header of this name and value.
    pub fn asks(&self, name: &str, value: &str) -> bool {
        header(self.headers.as_bytes(), name).is_some_and(|found| found == value)
    }
}

/// Round trips in sequence that these requests took.
pub fn depth(seen: &[Seen]) -> usize {
    seen.iter().map(|seen| seen.depth).max().unwrap_or(0)
}

#[derive(Debug)]
struct State {
    orders: Orders,
    rng: Rng,
    seen: Vec<Seen>,
    /// Counts how often `seen` was taken.
    round: u64,
    /// The greatest depth of a request of this round that was answered.
    answered: usize,
    spoilt: u64,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    closing: AtomicBool,
}

/// A proxy that runs as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `endpoint`, an `http://` URL.
    pub fn start(endpoint: &str, seed: u64, orders: Orders) -> Self {
        let upstream = endpoint.strip_prefix("http://").unwrap().trim_end_matches('/');
        let rng = Rng::new(seed);
        let state = State { orders, rng, seen: Vec::new(), round: 0, answered: 0, spoilt: 0 };
        let shared = Arc::new(Shared {
            upstream: upstream.parse().unwrap(),
            state: Mutex::new(state),
            closing: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accept = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accept.closing.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accept);
                std::thread::spawn(move || shared.serve(&client));
            }
        });
        Self { shared, address, thread: Some(thread) }
    }

    /// Where to reach it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does something else from now on.
    pub fn order(&self, orders: Orders) {
        self.shared.state.lock().unwrap().orders = orders;
    }

    /// The requests that came since this was last asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        let mut state = self.shared.state.lock().unwrap();
        state.round += 1;
        state.answered = 0;
        std::mem::take(&mut state.seen)
    }

    /// Requests that went wrong so far.
    pub fn spoilt(&self) -> u64 {
        self.shared.state.lock().unwrap().spoilt
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A request or an answer.
#[derive(Clone, Debug, Default)]
struct Message {
    /// The first line and the headers, with the empty line behind them.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    fn first_line(&self) -> String {
        let end = self.head.iter().position(|byte| *byte == b'\r').unwrap_or(self.head.len());
        String::from_utf8_lossy(&self.head[..end]).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Without the body if it is an answer to HEAD.
    fn write(&self, mut to: &TcpStream) -> std::io::Result<()> {
        to.write_all(&self.head)?;
        to.write_all(&self.body)
    }
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).into_owned();
    text.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn read_head(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn read_sized(from: &mut impl Read, len: usize) -> Option<Vec<u8>> {
    let mut body = vec![0; len];
    from.read_exact(&mut body).ok()?;
    Some(body)
}

fn read_request(client: &TcpStream, from: &mut impl BufRead) -> Option<Message> {
    let head = read_head(from)?;
    if header(&head, "expect").is_some() {
        let mut client = client;
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let len = header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
    Some(Message { body: read_sized(from, len)?, head })
}

/// `method`: of the request.
fn read_answer(from: &mut impl BufRead, method: &str) -> Option<Message> {
    let mut head = read_head(from)?;
    while head.starts_with(b"HTTP/1.1 100") {
        head = read_head(from)?;
    }
    let empty = method == "HEAD" || head.starts_with(b"HTTP/1.1 204");
    if empty {
        return Some(Message { head, body: Vec::new() });
    }
    if let Some(len) = header(&head, "content-length") {
        return Some(Message { body: read_sized(from, len.parse().unwrap())?, head });
    }
    let body = read_chunks(from)?;
    Some(Message { head: with_length(&head, body.len()), body })
}

fn read_chunks(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let len = usize::from_str_radix(line.trim(), 16).ok()?;
        body.extend(read_sized(from, len)?);
        from.read_line(&mut String::new()).ok()?;
        if len == 0 {
            return Some(body);
        }
    }
}

/// The head of an answer that came in chunks, for one that does not.
fn with_length(head: &[u8], len: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let kept = text
        .trim_end()
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("transfer-encoding:"));
    let mut lines: Vec<String> = kept.map(ToOwned::to_owned).collect();
    lines.push(format!("Content-Length: {len}"));
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

fn refusal(status: &str, code: &str, method: &str, headers: &str) -> Message {
    let body = if method == "HEAD" || code.is_empty() {
        String::new()
    } else {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>"
        )
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    Message { head: head.into_bytes(), body: body.into_bytes() }
}

fn reset(client: &TcpStream) {
    // With nothing to linger for, closing sends a reset.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = libc::socklen_t::try_from(size_of_val(&linger)).unwrap();
    let (socket, value) = (client.as_raw_fd(), (&raw const linger).cast());
    // SAFETY: the socket is open, and `value` points to `len` bytes of the option's own type.
    let set = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

impl Shared {
    fn serve(&self, client: &TcpStream) {
        drop(client.set_nodelay(true));
        let mut from = BufReader::new(client);
        let mut server = None;
        while let Some(request) = read_request(client, &mut from) {
            let line = request.first_line();
            let mut words = line.split(' ');
            let method = words.next().unwrap_or_default().to_owned();
            let target = words.next().unwrap_or_default().to_owned();
            let body_bytes = request.body.len();
            let headers = String::from_utf8_lossy(&request.head).into_owned();
            let seen = Seen { method: method.clone(), target, body_bytes, headers, depth: 0 };
            let signed = request.header("authorization").unwrap_or_default();
            let (fault, latency, place) = self.draw(seen, !signed.contains("/us-east-1/"));
            std::thread::sleep(latency);
            let goes_on = match fault {
                None => self.pass(&request, &method, &mut server).is_some_and(|answer| {
                    self.answered(place);
                    answer.write(client).is_ok()
                }),
                Some(fault) => self.spoil(fault, &request, &method, client, &mut server),
            };
            if !goes_on {
                drop(client.shutdown(Shutdown::Both));
                return;
            }
        }
    }

    /// * `elsewhere`: whether it is signed for another region.
    fn draw(&self, seen: Seen, elsewhere: bool) -> (Option<Fault>, Duration, (u64, usize)) {
        let mut state = self.state.lock().unwrap();
        let depth = state.answered + 1;
        state.seen.push(Seen { depth, ..seen });
        let Orders { one_in, faults, latency } = state.orders.clone();
        let spoils = one_in > 0 && !faults.is_empty() && state.rng.below(one_in) == 0;
        let fault = spoils.then(|| *state.rng.pick(&faults));
        let fault = fault.filter(|fault| *fault != Fault::Elsewhere || elsewhere);
        state.spoilt += u64::from(fault.is_some());
        (fault, latency, (state.round, depth))
    }

    fn answered(&self, (round, depth): (u64, usize)) {
        let mut state = self.state.lock().unwrap();
        if state.round == round {
            state.answered = state.answered.max(depth);
        }
    }

    /// The server's answer. Its connection is kept for the next request.
    fn pass(
        &self,
        request: &Message,
        method: &str,
        server: &mut Option<BufReader<TcpStream>>,
    ) -> Option<Message> {
        let mut to = match server.take() {
            Some(server) => server,
            None => BufReader::new(TcpStream::connect(self.upstream).ok()?),
        };
        request.write(to.get_ref()).ok()?;
        let answer = read_answer(&mut to, method)?;
        if answer.header("connection").is_none_or(|value| value != "close") {
            *server = Some(to);
        }
        Some(answer)
    }

    /// Whether the connection goes on.
    fn spoil(
        &self,
        fault: Fault,
        request: &Message,
        method: &str,
        client: &TcpStream,
        server: &mut Option<BufReader<TcpStream>>,
    ) -> bool {
        let refuse = |status: &str, code: &str, headers: &str| {
            refusal(status, code, method, headers).write(client).is_ok()
        };
        match fault {
            Fault::Unavailable => return refuse("503 Service Unavailable", "", ""),
            Fault::SlowDown => return refuse("503 Slow Down", "SlowDown", ""),
            Fault::Internal => return refuse("500 Oops", "InternalError", ""),
            Fault::Expired => return refuse("400 Bad Request", "ExpiredToken", ""),
            Fault::Skewed => {
                let date = format!("Date: {}\r\n", hour_ago());
                return refuse("403 Forbidden", "RequestTimeTooSkewed", &date);
            }
            Fault::Elsewhere => {
                let region = "x-amz-bucket-region: us-east-1\r\n";
                return refuse("301 Moved Permanently", "PermanentRedirect", region);
            }
            Fault::Reset => {
                reset(client);
                return false;
            }
            Fault::Late => {
                reset(client);
                drop(client.shutdown(Shutdown::Both));
                std::thread::sleep(Duration::from_millis(300));
                drop(self.pass(request, method, server));
                return false;
            }
            _ => {}
        }
        if fault == Fault::Twice {
            drop(self.pass(request, method, server));
        }
        let Some(answer) = self.pass(request, method, server) else { return false };
        give_back(fault, &answer, client)
    }
}

/// Gives an answer back in the way of `fault`. Whether the connection goes on.
fn give_back(fault: Fault, answer: &Message, client: &TcpStream) -> bool {
    let half = answer.body.len() / 2;
    let cut = Message { body: answer.body[..half].to_vec(), ..answer.clone() };
    match fault {
        Fault::LostReply => reset(client),
        Fault::ResetInBody => {
            drop(cut.write(client));
            // The half has to be there before the reset, which overtakes what is not.
            std::thread::sleep(Duration::from_millis(20));
            reset(client);
        }
        Fault::Truncated if half > 0 => drop(cut.write(client)),
        Fault::Slow => return dribble(answer, client).is_ok(),
        Fault::Careless if answer.head.starts_with(b"HTTP/1.1 412") => {
            let head = "HTTP/1.1 200 OK\r\nETag: \"0\"\r\nContent-Length: 0\r\n\r\n";
            return Message { head: head.into(), body: Vec::new() }.write(client).is_ok();
        }
        _ => {
            if fault == Fault::Delayed {
                std::thread::sleep(Duration::from_millis(400));
            }
            return answer.write(client).is_ok();
        }
    }
    false
}

fn dribble(answer: &Message, mut client: &TcpStream) -> std::io::Result<()> {
    let bytes = [answer.head.as_slice(), answer.body.as_slice()].concat();
    for piece in bytes.chunks(bytes.len().div_ceil(10).max(1)) {
        client.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// As HTTP writes it.
fn hour_ago() -> String {
    let output = std::process::Command::new("date")
        .args(["--utc", "--date=-1 hour", "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
