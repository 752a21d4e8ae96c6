//! What may be named where, in code that is no test.

use afflux_tidy::{Findings, House, Source};

/// Names that are forbidden in files whose path begins with one of `within` and with none of `except`.
struct Wall {
    rule: &'static str,
    within: &'static [&'static str],
    except: &'static [&'static str],
    names: &'static [&'static str],
    cure: &'static str,
}

const CODE: &[&str] = &["framework/", "services/", "examples/"];
const SOCKETS: &[&str] =
    &["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "tokio::net", "std::net"];

impl Wall {
    fn covers(&self, path: &str) -> bool {
        self.within.iter().any(|p| path.starts_with(p)) && !self.except.iter().any(|p| path.starts_with(p))
    }

    fn check(&self) {
        let mut findings = Findings::new(self.rule, self.cure);
        let sources: Vec<Source> =
            House::open().product().into_iter().filter(|s| self.covers(&s.path)).collect();
        assert!(!sources.is_empty(), "no file lies within {:?}", self.within);
        for source in &sources {
            for name in self.names {
                for line in source.find(name) {
                    findings.add(&source.path, line, format!("names `{name}`"));
                }
            }
        }
        findings.finish();
    }
}

#[test]
fn actix_is_named_in_the_actor_crate_only() {
    Wall {
        rule: "framework/actor is the one place that knows actix",
        within: CODE,
        except: &["framework/actor/"],
        names: &["actix", "actix_rt"],
        cure: "use Place, Threads, ActorHandle and `system` of afflux-actor",
    }
    .check();
}

#[test]
fn actix_web_is_named_in_afflux_and_the_http_connector_only() {
    Wall {
        rule: "HTTP enters a process in framework/afflux and connectors/http only",
        within: CODE,
        except: &["framework/afflux/", "framework/connectors/src/http"],
        names: &["actix_web"],
        cure: "add a page to the admin server of framework/afflux",
    }
    .check();
}

#[test]
fn wire_has_neither_a_socket_nor_a_runtime() {
    let mut names = SOCKETS.to_vec();
    names.retain(|name| *name != "std::net");
    names.extend([
        "tokio",
        "actix",
        "std::thread",
        "std::fs",
        "std::env",
        "SystemTime::now",
        "async_std",
        "tracing",
    ]);
    Wall {
        rule: "framework/wire is bytes and types: no socket, no runtime, no file, no environment",
        within: &["framework/wire/"],
        // Asks whether a panic drops it; starts no thread.
        except: &["framework/wire/src/contract/stream/emit.rs"],
        names: Vec::leak(names),
        cure: "move it to framework/actor (what runs) or framework/mesh (what connects)",
    }
    .check();
}

#[test]
fn actors_see_no_sockets_and_no_frames() {
    let mut names = SOCKETS.to_vec();
    names.extend(["afflux_wire::frame", "afflux_wire::Frame", "FrameBuf", "Frame"]);
    Wall {
        rule: "framework/actor sees neither sockets nor frames nor records",
        within: &["framework/actor/"],
        except: &[],
        names: Vec::leak(names),
        cure: "move it to framework/mesh",
    }
    .check();
}

#[test]
fn streams_see_no_sockets_frames_or_links() {
    let mut names = SOCKETS.to_vec();
    names.extend(["Frame", "FrameBuf", "Link", "afflux_wire::frame"]);
    Wall {
        rule: "an operator runs in a unit test without a network: stream knows channels only",
        within: &["framework/stream/"],
        except: &[],
        names: Vec::leak(names),
        cure: "use ChannelSender and ChannelReceiver of afflux-mesh",
    }
    .check();
}

#[test]
fn records_stop_at_the_gates() {
    const FILES: &[&str] = &[
        // Each a file, and the files below it.
        "framework/mesh/src/link",
        "framework/mesh/src/peers",
        "framework/mesh/src/channel",
        "framework/mesh/src/transport",
    ];
    Wall {
        rule: "link, peers, channel and transport carry bytes, never records",
        within: FILES,
        except: &[],
        names: &[
            "Serialize",
            "Deserialize",
            "DeserializeOwned",
            "serde",
            "afflux_stream",
            "encode_row",
            "decode_rows",
        ],
        cure: "encode in the gates of framework/stream, hand on `bytes::Bytes`",
    }
    .check();
    let mut findings = Findings::new(
        "no type parameter stands in link, peers, channel and transport",
        "bytes below, values above: let the gates of framework/stream do what needs the type",
    );
    let sources = House::open().product();
    for file in FILES {
        assert!(sources.iter().any(|s| s.path.starts_with(file)), "{file} was renamed");
    }
    for source in sources.iter().filter(|s| FILES.iter().any(|file| s.path.starts_with(file))) {
        for at in source.places("<T") {
            findings.add(&source.path, source.line(at), "a type parameter `T`");
        }
        for word in ["struct", "enum", "trait", "impl"] {
            for at in source.places(word) {
                let head = source.code[at..].split(['{', ';', '(']).next().unwrap_or_default();
                // `impl<T>`, `struct Name<T>`, but not `impl Trait<For> for Name` nor a lifetime.
                let parameters = match word {
                    "impl" => head.strip_prefix("impl<"),
                    _ => head.split_once('<').map(|(_, p)| p),
                };
                if parameters.is_some_and(|p| !p.starts_with('\'') && !p.starts_with("const ")) {
                    findings.add(
                        &source.path,
                        source.line(at),
                        format!("`{}` has a type parameter", head.trim()),
                    );
                }
            }
        }
    }
    findings.finish();
}

#[test]
fn only_afflux_reads_the_environment_and_the_wall_clock() {
    Wall {
        rule: "environment and wall clock enter a process in framework/afflux only",
        within: CODE,
        // One example starts itself as its second process, two are told where a broker is.
        except: &[
            "framework/afflux/",
            "examples/two-nodes/",
            "examples/hello-rabbitmq/",
            "examples/transfer-kafka/",
        ],
        names: &[
            "std::env",
            "env::var",
            "env::var_os",
            "env::vars",
            "env::args",
            "env::current_exe",
            "env::current_dir",
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
            "Utc::now",
        ],
        cure: "take a setting, or the injected `Clock` of afflux-actor (`clock.wall()`)",
    }
    .check();
}

#[test]
fn files_are_read_and_written_by_connectors_and_afflux_only() {
    Wall {
        rule: "a user's file is touched by connectors and framework/afflux only; checkpoints go through object_store",
        within: &["framework/"],
        except: &[
            "framework/afflux/",
            "framework/connectors/",
            // The kernel's files, not a user's: the CPU quota of the cgroup.
            "framework/actor/src/quota.rs",
            // Makes the directory that object_store then writes below.
            "framework/stream/src/job/storage/place.rs",
            // Makes and removes the directories of state on disk, which nobody else reads.
            "framework/stream/src/state/disk/",
        ],
        names: &["std::fs", "tokio::fs", "File::open", "File::create", "OpenOptions"],
        cure: "make it a connector, or use `Storage` of framework/stream",
    }
    .check();
}

#[test]
fn nothing_is_left_to_do_in_code() {
    Wall {
        rule: "what is not there is said in words, not in a macro that panics",
        within: CODE,
        except: &[],
        names: &["todo!", "unimplemented!", "dbg!"],
        cure: "return a Status with the code UNIMPLEMENTED, or leave the method out",
    }
    .check();
}
