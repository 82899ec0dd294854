//! A number that a web server tells: of this machine over plain HTTP, of any other over HTTPS. It is
//! asked once, is not followed elsewhere, and little is read of what it says.

use std::time::Duration;

use super::dirfd::read_limited;
use super::oci_http::{Trust, agent};

/// The whole of it takes no longer.
const LONGEST: Duration = Duration::from_secs(4);
/// Most bytes of an answer.
const MOST: u64 = 4096;

/// The first word of what is at an address, which is to be a number.
///
/// # Errors
/// Why there is none; as a sentence.
pub fn number_at(url: &str) -> Result<f64, String> {
    let plain = url.starts_with("http://");
    // Plain is only what this machine tells.
    let asked = agent(&Trust::default(), plain, plain)?
        .get(url)
        .config()
        .max_redirects(0)
        .timeout_global(Some(LONGEST))
        .build()
        .call();
    let mut answer = asked.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(format!("the server answered with status {status}"));
    }
    let said =
        read_limited(answer.body_mut().as_reader(), MOST).map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => format!("it says more than {MOST} bytes"),
            _ => error.to_string(),
        })?;
    let said = String::from_utf8_lossy(&said);
    let word = said.split_whitespace().next().unwrap_or_default();
    match word.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => {
            let word: String = word.chars().take(40).collect();
            Err(format!(
                "the first word of what it says is no number: {word:?}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What is understood when a server says this.
    fn asked(answer: &str) -> Result<f64, String> {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let (mut one, _) = server.accept().unwrap();
            let mut question = [0; 1024];
            let _n = one.read(&mut question).unwrap();
            // One that has heard enough closes before the end.
            let _enough = one.write_all(answer.as_bytes());
        });
        let number = number_at(&format!("http://127.0.0.1:{port}/queue"));
        server.join().unwrap();
        number
    }

    #[test]
    fn only_a_short_and_plain_answer_counts() {
        let answer = |status: &str, body: &str| {
            format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        assert_eq!(asked(&answer("200 OK", " 12.5 ms\n")), Ok(12.5));
        for (status, body, why) in [
            ("200 OK", "many", "no number"),
            ("200 OK", "NaN", "no number"),
            ("200 OK", "", "no number"),
            ("404 Not Found", "1", "status 404"),
            ("200 OK", &"1 ".repeat(4000), "more than 4096 bytes"),
        ] {
            let error = asked(&answer(status, body)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let elsewhere =
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        assert!(asked(elsewhere).is_err());
        assert!(asked("nonsense").is_err());
    }
}
