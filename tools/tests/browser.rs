// SPDX-License-Identifier: GPL-2.0-only
//! The page of a real trace in a real browser: the charts are there, the script runs, nothing is
//! complained about and nothing is fetched. Leaves pictures of it in out/.
//!
//! The trace is the one beside this file, or the one of `XEN_COALESCE_TRACE`.

mod common;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{DEMO, DEMO_MHZ, run, scratch};
use serde_json::{Value, json};

/// WebDriver (https://www.w3.org/TR/webdriver2/), as far as it is needed.
struct Browser {
    driver: Child,
    /// It must not find its output closed.
    _said: BufReader<ChildStdout>,
    session: String,
}

impl Browser {
    fn start(profile: &Path) -> Browser {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("no chromedriver here: 'make -f build.mk deps' installs what is needed");
        // It says which port it took.
        let mut said = BufReader::new(driver.stdout.take().expect("a pipe"));
        let port = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains("started successfully"))
            .find_map(|line| {
                line.split("on port ")
                    .nth(1)?
                    .trim_end_matches('.')
                    .parse::<u16>()
                    .ok()
            })
            .expect("chromedriver says which port it took");
        let mut browser = Browser {
            driver,
            _said: said,
            session: format!("http://127.0.0.1:{port}/session"),
        };

        let args = vec![
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--window-size=1200,1400".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            // No page of its own.
            "about:blank".to_owned(),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": { "args": args },
        }}});
        let started = browser.post("", &wanted);
        let id = started["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut answer: Value = agent
            .post(format!("{}{path}", self.session))
            .send_json(body)
            .and_then(|mut response| response.body_mut().with_config().limit(1 << 26).read_json())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    fn open(&self, path: &Path) {
        self.post(
            "/url",
            &json!({ "url": format!("file://{}", path.display()) }),
        );
    }

    /// What a function of JavaScript returns.
    fn ask(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", &json!({ "type": kind }));
        log.as_array().cloned().unwrap_or_default()
    }

    /// A command of Chrome's own.
    fn command(&self, name: &str, params: Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            &json!({ "cmd": name, "params": params }),
        )
    }

    /// What the user likes.
    fn like(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    /// The whole page as a picture.
    fn picture(&self) -> Vec<u8> {
        let whole = json!({ "captureBeyondViewport": true });
        let taken = self.command("Page.captureScreenshot", whole);
        decoded(taken["data"].as_str().expect("a picture"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Base64.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (vec![], 0u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = LETTERS.iter().position(|l| *l == letter).expect("base64");
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

#[test]
fn the_page_in_a_browser() {
    let (trace, mhz) = match env::var("XEN_COALESCE_TRACE") {
        Ok(path) => (path, env::var("XEN_COALESCE_TSC_MHZ").ok()),
        Err(_) => (DEMO.to_owned(), Some(DEMO_MHZ.to_owned())),
    };
    let page = scratch("page.html");
    let mut args = vec!["plot", &trace, "-o", page.to_str().unwrap()];
    if let Some(mhz) = &mhz {
        args.extend(["--tsc-mhz", mhz]);
    }
    assert!(run(&args).status.success());

    let profile = scratch("profile");
    let browser = Browser::start(&profile);
    browser.like("light");
    browser.log("performance");
    browser.open(&page);

    // Three charts, each with something in it, inside the page and as wide as each other.
    let charts = browser.ask(
        "return [...document.querySelectorAll('svg.time')].map(svg => {
            const box = svg.getBoundingClientRect();
            const shapes = svg.querySelectorAll('path, circle');
            return {
                kind: svg.classList[1], left: box.left, width: box.width, height: box.height,
                shapes: shapes.length,
                seen: [...shapes].filter(s => s.getBBox().width * s.getBBox().height > 0).length,
                bad: svg.innerHTML.match(/NaN|inf|undefined/) !== null,
            };
        });",
    );
    let charts = charts.as_array().expect("charts");
    let kinds: Vec<&str> = charts.iter().filter_map(|c| c["kind"].as_str()).collect();
    assert_eq!(kinds, ["areas", "map", "stalls"]);
    for chart in charts {
        assert!(chart["shapes"].as_u64() >= Some(3), "{chart}");
        assert_eq!(chart["shapes"], chart["seen"], "{chart}");
        assert_eq!(chart["bad"], false, "{chart}");
        assert!(chart["width"].as_f64() > Some(900.0), "{chart}");
        assert!(chart["height"].as_f64() > Some(150.0), "{chart}");
        assert_eq!(
            (&chart["left"], &chart["width"]),
            (&charts[0]["left"], &charts[0]["width"])
        );
    }
    let wide = browser.ask("return document.documentElement.scrollWidth <= window.innerWidth;");
    assert_eq!(wide, true, "nothing sticks out at the side");

    // Pointing into a chart tells what was then.
    let told = browser.ask(
        "const svg = document.querySelector('svg.time');
         const box = svg.getBoundingClientRect();
         svg.dispatchEvent(new MouseEvent('mousemove', {
             clientX: box.left + box.width * 0.5, clientY: box.top + 20, bubbles: true,
         }));
         const lines = [...document.querySelectorAll('.cross')];
         return [document.querySelector('.readout').textContent,
                 lines.every(line => getComputedStyle(line).opacity > 0)];",
    );
    let words = told[0].as_str().unwrap_or_default();
    assert!(words.contains("% in 2M pages"), "{told}");
    assert_eq!(told[1], true);

    // Nothing is complained about, and nothing is fetched but the page itself.
    let complaints = browser.log("browser");
    assert!(complaints.is_empty(), "{complaints:?}");
    let fetched: Vec<String> = browser
        .log("performance")
        .iter()
        .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok())
        .filter(|entry| entry["message"]["method"] == "Network.requestWillBeSent")
        .filter_map(|entry| {
            Some(
                entry["message"]["params"]["request"]["url"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .filter(|url| !url.starts_with("data:"))
        .collect();
    assert_eq!(fetched, [format!("file://{}", page.display())]);

    // As the user likes it, with other colours.
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out");
    fs::create_dir_all(&out).unwrap();
    let mut papers = vec![];
    for scheme in ["light", "dark"] {
        browser.like(scheme);
        papers.push(browser.ask("return getComputedStyle(document.body).backgroundColor;"));
        let picture = browser.picture();
        assert!(picture.starts_with(b"\x89PNG"));
        fs::write(out.join(format!("plot-{scheme}.png")), picture).unwrap();
    }
    assert_eq!(papers, ["rgb(251, 250, 247)", "rgb(20, 24, 29)"]);

    drop(browser);
    fs::remove_file(&page).unwrap();
    // The browser may still be about to close its files.
    let _ = fs::remove_dir_all(&profile);
}
