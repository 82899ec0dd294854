//! A server of images in the simplestreams form on loopback: a tree of files that the test makes with
//! the tools that make such trees (mksquashfs, tar, xz, gpg), served by Python's server of static
//! files. Ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::images::digest;
use crate::support::{Bulkhead, TestDir, eventually};

/// Where the files of versions lie.
const PLACE: &str = "images/box/1/amd64/default";

/// A tree and its server.
pub struct Server {
    pub folder: TestDir,
    port: u16,
    child: Child,
    scheme: &'static str,
}

impl Server {
    /// One that speaks plain HTTP.
    pub fn new() -> Self {
        Self::start(
            "import sys, http.server as h\n\
             h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, 'HTTP/1.1', int(sys.argv[1]), '127.0.0.1')",
            "http",
        )
    }

    /// One that speaks HTTPS, with the certificate `cert.pem` of its folder.
    pub fn secure() -> Self {
        Self::start(
            "import sys, ssl, subprocess, http.server as h\n\
             subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'key.pem',\n\
             '-out', 'cert.pem', '-subj', '/CN=box', '-addext', 'subjectAltName=IP:127.0.0.1',\n\
             '-addext', 'basicConstraints=CA:FALSE'], check=True)\n\
             s = h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler)\n\
             c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')\n\
             s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()",
            "https",
        )
    }

    fn start(program: &str, scheme: &'static str) -> Self {
        let folder = TestDir::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let child = Command::new("python3")
            .args(["-c", program, &port.to_string()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3");
        let server = Self {
            folder,
            port,
            child,
            scheme,
        };
        eventually("the server answers", 20, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Runs a line in its folder.
    #[track_caller]
    pub fn shell(&self, line: &str) {
        let done = Command::new("sh")
            .args(["-ec", line])
            .current_dir(self.folder.path())
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{line}\n{said}");
    }

    /// Makes the files of a version: the root of a busybox guest with this in `/srv/x`.
    pub fn version(&self, number: &str, text: &str) -> PathBuf {
        let host = Bulkhead::new();
        host.ok(&[
            "create",
            "made",
            "--template",
            "busybox",
            "--network",
            "none",
        ]);
        let images = host.root().join("var/lib/bulkhead/images");
        self.shell(&format!(
            "rm -rf tree about; cp -a {}/*/root tree; mkdir -p tree/srv {PLACE}/{number}; \
             echo {text} > tree/srv/x; chown 33:33 tree/srv/x; setfattr -n user.kept -v yes tree/srv/x 2>/dev/null || true; \
             mkdir -p about/templates; echo '{{{{ container.name }}}}' > about/templates/hostname.tpl; \
             printf 'architecture: x86_64\\ncreation_date: 1\\nproperties:\\n  os: Box\\n' > about/metadata.yaml; \
             cd {PLACE}/{number}; tar -C ../../../../../../about -cJf incus.tar.xz metadata.yaml templates; \
             tar -C ../../../../../../tree --xattrs -cJf rootfs.tar.xz .; \
             mksquashfs ../../../../../../tree rootfs.squashfs -noappend -quiet -no-progress >/dev/null",
            images.display()
        ));
        self.folder.join(&format!("{PLACE}/{number}"))
    }

    /// What the list says of a file of a version.
    pub fn item(&self, number: &str, name: &str, kind: &str) -> Value {
        let path = format!("{PLACE}/{number}/{name}");
        let data = std::fs::read(self.folder.join(&path)).expect("a file of a version");
        json!({"ftype": kind, "path": path, "sha256": digest(&data), "size": data.len()})
    }

    /// What the list says of a version with its squashfs or its tar.
    pub fn entry(&self, number: &str, squashfs: bool) -> Value {
        let (name, kind, key) = match squashfs {
            true => ("rootfs.squashfs", "squashfs", "combined_squashfs_sha256"),
            false => ("rootfs.tar.xz", "root.tar.xz", "combined_rootxz_sha256"),
        };
        let mut about = self.item(number, "incus.tar.xz", "incus.tar.xz");
        let read = |name: &str| {
            std::fs::read(self.folder.join(&format!("{PLACE}/{number}/{name}"))).expect("made")
        };
        let both = [read("incus.tar.xz"), read(name)].concat();
        about[key] = digest(&both).into();
        json!({"items": {"incus.tar.xz": about, name: self.item(number, name, kind)}})
    }

    /// Writes the index and the list of these versions of `box/1`.
    pub fn publish(&self, versions: &Value) {
        self.shell("mkdir -p streams/v1");
        let list = json!({"format": "products:1.0", "datatype": "image-downloads", "products": {
            "box:1:amd64:default": {"aliases": "box/1/default,box/1", "arch": "amd64", "os": "Box",
                "release": "1", "variant": "default", "versions": versions},
            "box:1:s390x:default": {"aliases": "box/1/default,box/1", "arch": "s390x", "versions": versions},
        }});
        let index = json!({"format": "index:1.0", "index": {"images": {
            "datatype": "image-downloads", "path": "streams/v1/images.json", "format": "products:1.0",
            "products": ["box:1:amd64:default"]}}});
        self.folder
            .write("streams/v1/images.json", &list.to_string());
        self.folder
            .write("streams/v1/index.json", &index.to_string());
    }

    /// Signs what it says with a key made for it, whose public half is `keys.gpg` of its folder.
    pub fn sign(&self) {
        self.shell(
            "mkdir -p -m 700 gnupg; export GNUPGHOME=$PWD/gnupg; \
             [ -e keys.gpg ] || { gpg --batch --quiet --passphrase '' --quick-gen-key 'Throw Away' ed25519 sign never; \
             gpg --export > keys.gpg; }; \
             for name in index images; do gpg --batch --yes --clearsign -o streams/v1/$name.sjson streams/v1/$name.json; done; \
             gpgconf --kill all",
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
