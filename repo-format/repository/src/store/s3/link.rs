//! Sending requests: the one place where tries are repeated, waits are taken, stalls are noticed,
//! the server's pace is followed, and requests are counted.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use repo_format::key::Prefix;

use super::body::Progress;
use super::clock::Clock;
use super::config::S3Config;
use super::connect;
use super::failure::{Class, Failure};
use super::limiter::Limiter;
use crate::store::traffic::{Action, Ending, Traffic};
use crate::store::wrap::Backoff;
use crate::store::{Op, Refusal, StoreError};

/// How often a try is looked after.
const TICK: Duration = Duration::from_millis(100);
/// What hangs is given up this long after it was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A region or a clock is corrected at most so often for one request, with no wait in between.
const CORRECTIONS_MAX: u32 = 3;

/// A request, as messages, counters and limits see it.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) op: Op,
    pub(super) action: Action,
    /// That a policy has to grant for it.
    pub(super) right: &'static str,
    /// URL of the object.
    pub(super) at: String,
    pub(super) bucket: &'a str,
    /// Of the object; `None` for what is in no folder of ours.
    pub(super) kind: Option<Prefix>,
    /// Bytes that will move, for the time that this may take.
    pub(super) body_bytes: u64,
}

fn region_of(client: &Client) -> Option<String> {
    client.config().region().map(ToString::to_string)
}

/// The way to a server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) config: S3Config,
    pub(super) traffic: Arc<Traffic>,
    pub(super) clock: Clock,
    client: RwLock<Client>,
    limiter: Limiter,
}

impl Link {
    /// # Errors
    ///
    /// What makes the configuration unusable, in words.
    pub(super) async fn new(config: S3Config) -> Result<Self, String> {
        let clock = Clock::default();
        let client = RwLock::new(connect::client(&config, &clock).await?);
        let limiter = Limiter::new(config.in_flight.0);
        Ok(Self { config, traffic: Arc::default(), clock, client, limiter })
    }

    /// Sends a request until it is answered, refused, or has been tried as long as it may.
    ///
    /// * `doubt`: set if a try failed in such a way that it may have taken effect.
    /// * `request`: one try.
    pub(super) async fn send<T>(
        &self,
        call: &Call<'_>,
        doubt: &mut bool,
        mut request: impl AsyncFnMut(&Client, &Progress) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut backoff = Backoff::new(self.config.retry);
        let mut corrections = 0;
        loop {
            let client = self.client();
            let failure = match self.attempt(call, &client, &mut request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            *doubt |= !failure.is_certain();
            if corrections < CORRECTIONS_MAX && self.correct(&failure, &client) {
                corrections += 1;
                continue;
            }
            let renews = failure.class == Class::Expired;
            if !renews && !failure.is_passing() && failure.class != Class::Skewed {
                return Err(failure.into_error(call));
            }
            let Some(wait) = backoff.next_wait() else {
                return Err(backoff.gave_up(failure.into_error(call)));
            };
            if !self.wait(wait).await {
                return Err(backoff.gave_up(failure.into_error(call)));
            }
            if renews {
                self.renew().await;
            }
        }
    }

    async fn attempt<T>(
        &self,
        call: &Call<'_>,
        client: &Client,
        request: &mut impl AsyncFnMut(&Client, &Progress) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let permit = self.limiter.acquire().await;
        let progress = Progress::default();
        let answer = tokio::select! {
            answer = request(client, &progress) => answer,
            failure = self.watch(call, &progress) => Err(failure),
        };
        drop(permit);
        let ending = match answer.as_ref().err().map(|failure| &failure.class) {
            None | Some(Class::Missing | Class::Exists | Class::Beyond) => Ending::Answered,
            Some(Class::SlowDown) => Ending::SlowDown,
            Some(_) => Ending::Failed,
        };
        match ending {
            Ending::Answered => self.limiter.went_well(),
            Ending::SlowDown => self.limiter.slow_down(),
            Ending::Failed => {}
        }
        self.traffic.count(call.action, call.kind, ending, progress.moved());
        answer
    }

    /// Ends when a try has to be given up.
    async fn watch(&self, call: &Call<'_>, progress: &Progress) -> Failure {
        let limits = self.config.timeouts;
        let whole = Duration::from_secs(call.body_bytes / limits.slowest_bytes_s.max(1));
        let end = Instant::now() + limits.stall + whole;
        let (mut moved, mut since, mut stopped) = (0, Instant::now(), None);
        loop {
            tokio::time::sleep(TICK).await;
            if progress.moved() != moved {
                (moved, since) = (progress.moved(), Instant::now());
            }
            if since.elapsed() > limits.stall {
                let seconds = limits.stall.as_secs_f32();
                return Failure::passing(format!("nothing came or went for {seconds} seconds"));
            }
            if Instant::now() > end {
                let body = call.body_bytes;
                return Failure::passing(format!("too slow: {moved} of {body} bytes have moved"));
            }
            if self.is_stopped() {
                let since: &Instant = stopped.get_or_insert_with(Instant::now);
                if since.elapsed() > STOP_GRACE {
                    return Failure::passing("it was cancelled");
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.config.stop.load(Ordering::Relaxed)
    }

    /// `false` if it was told to stop.
    async fn wait(&self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        while !self.is_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(TICK)).await;
        }
        false
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether something was put right that the server complained of. The clock is put right by
    /// the SDK, which follows the server's with every answer.
    ///
    /// * `client`: the one that the request was sent with.
    fn correct(&self, failure: &Failure, client: &Client) -> bool {
        match (&failure.class, &failure.region) {
            (Class::Skewed, _) => true,
            (Class::Elsewhere, Some(region)) => {
                self.move_to(region);
                // Another request may have moved there since this one was sent.
                region_of(client).as_ref() != Some(region)
            }
            // Answers to HEAD do not say what is refused: it may be the time.
            (Class::Refused(Refusal::NoRight { .. }), _) => failure.silent,
            _ => false,
        }
    }

    /// Signs for another region from now on.
    fn move_to(&self, region: &str) {
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if region_of(&client).as_deref() != Some(region) {
            let region = Region::new(region.to_owned());
            *client = Client::from_conf(client.config().to_builder().region(region).build());
        }
    }

    /// Looks for newer credentials where the old ones came from.
    async fn renew(&self) {
        let config = S3Config { region: region_of(&self.client()), ..self.config.clone() };
        // The configuration was good before; if it is not now, the old client will tell.
        if let Ok(client) = connect::client(&config, &self.clock).await {
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }
}
