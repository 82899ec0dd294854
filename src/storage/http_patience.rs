//! Patience with a server: a question is asked again after failures that may pass, and a file whose
//! connection breaks is taken up again where it broke.

use std::io::{self, Read};
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use crate::kernel::interrupt;

/// Attempts without any progress between them.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks, and asks again after failures that may pass; gives the answer, whatever it says.
///
/// # Errors
/// None came; as a sentence.
pub(super) fn patiently(
    mut ask: impl FnMut() -> Result<Response<Body>, ureq::Error>,
) -> Result<Response<Body>, String> {
    let mut pause = PAUSE;
    let mut attempt = 1;
    loop {
        let failure = match ask() {
            Ok(answer) if !is_passing(answer.status().as_u16()) => return Ok(answer),
            Ok(answer) => format!("the server answers {}", answer.status()),
            Err(error) => error.to_string(),
        };
        if attempt == ATTEMPTS || interrupt::caught().is_some() {
            return Err(failure);
        }
        attempt += 1;
        std::thread::sleep(pause);
        pause *= 2;
    }
}

/// Whether an answer may be another one a moment later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Gives an answer that has a file from this byte on, or from its beginning.
type Connect<'a> = Box<dyn Fn(u64) -> io::Result<Response<Body>> + 'a>;

/// A file as it comes, asked for again from where it broke off.
pub(super) struct Resuming<'a> {
    connect: Connect<'a>,
    body: Option<Box<dyn Read>>,
    done: u64,
    size: u64,
    /// Attempts since the last byte.
    fruitless: u32,
}

impl<'a> Resuming<'a> {
    /// A file of `size` bytes.
    pub(super) fn new(size: u64, connect: impl Fn(u64) -> io::Result<Response<Body>> + 'a) -> Self {
        Self {
            connect: Box::new(connect),
            body: None,
            done: 0,
            size,
            fruitless: 0,
        }
    }

    fn body(&self) -> io::Result<Box<dyn Read>> {
        let answer = (self.connect)(self.done)?;
        let whole = answer.status() == 200;
        let mut body = answer.into_body().into_reader();
        if whole && self.done > 0 {
            // A server that knows no ranges sends all of it again.
            io::copy(&mut (&mut body).take(self.done), &mut io::sink())?;
        }
        Ok(Box::new(body))
    }
}

impl Read for Resuming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.done < self.size {
            if interrupt::caught().is_some() {
                return Err(io::Error::other("reading it was interrupted by a signal"));
            }
            let result = match &mut self.body {
                Some(body) => body.read(buffer),
                None => {
                    self.body = Some(self.body()?);
                    continue;
                }
            };
            let why = match result {
                Ok(n) if n > 0 => {
                    self.done += n as u64;
                    self.fruitless = 0;
                    return Ok(n);
                }
                Ok(_) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Err(error) => error,
            };
            self.body = None;
            self.fruitless += 1;
            if self.fruitless == ATTEMPTS {
                return Err(why);
            }
            std::thread::sleep(PAUSE * self.fruitless);
        }
        Ok(0)
    }
}
