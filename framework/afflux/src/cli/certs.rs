//! `certs`: certificates and tokens of a cluster of one's own.

use std::path::Path;

use super::args::{CertsArgs, CertsCommand, Global};
use super::output::{print, print_json};
use crate::app::App;
use crate::certs::{Authority, write_identity};
use crate::error::{Error, Result};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

pub(crate) fn certs(app: &App, global: &Global, args: &CertsArgs) -> Result<()> {
    let cluster = global.layers()?.settings().cluster;
    let name = app.name();
    let issue = |authority: &Authority, identity: &str| {
        write_identity(authority, &args.dir, identity, &args.hosts, args.days, args.force)
    };
    match &args.what {
        CertsCommand::Init { node } => {
            let authority = Authority::create(&cluster)?;
            let mut files = authority.write(&args.dir, args.force)?;
            let node_file = issue(&authority, &format!("node/{node}"))?;
            let client_file = issue(&authority, "admin/cli")?;
            files.extend([node_file.clone(), client_file.clone()]);
            if global.json {
                return print_files(&files);
            }
            let dir = args.dir.display();
            print(&format!(
                "An authority of cluster `{cluster}`, node {node} and a client for the command line are in {dir}, valid \
                 for {} days.\nKeep {dir}/ca-key.pem where it is: whoever has it can make nodes.\n\n\
                 Start this machine's node, and look at it:\n  \
                 {name} --config {} node --listen 0.0.0.0:7000\n  \
                 {name} --config {} nodes --address localhost:7000\n\n{}",
                args.days,
                node_file.display(),
                client_file.display(),
                joining(name, &args.dir, "node-2"),
            ))
        }
        CertsCommand::Node { name: node } => {
            let file = issue(&Authority::open(&cluster, &args.dir)?, &format!("node/{node}"))?;
            if global.json {
                return print_files(&[file]);
            }
            print(&format!(
                "Node {node} is in {}; copy the directory to its machine, and start it there:\n  {}",
                file.parent().unwrap_or(&args.dir).display(),
                start(name, node),
            ))
        }
        CertsCommand::Client { name: client } => {
            if client.starts_with("node/") {
                return Err(Error::usage(format!("{client} is a node: make it with `certs node NAME`")));
            }
            let file = issue(&Authority::open(&cluster, &args.dir)?, client)?;
            if global.json {
                return print_files(&[file]);
            }
            print(&format!(
                "{client} may call what `auth.allow` says of it. From the command line:\n  \
                 {name} --config {} services --address HOST:7000\n",
                file.display()
            ))
        }
        CertsCommand::Token { name: caller } => {
            let token = random_token()?;
            let line = format!("{caller}:{}", afflux_mesh::token_digest(&token));
            // Says what is wrong with the name.
            afflux_mesh::Access::default().token_lines(&line).map_err(Error::usage)?;
            if global.json {
                return print_json(&serde_json::json!({ "token": token, "line": line }));
            }
            print(&format!(
                "The token of {caller}, which is shown here and kept nowhere:\n  {token}\n\n\
                 Its line in the file of `auth.tokens`, on every node:\n  {line}\n"
            ))
        }
    }
}

fn print_files(files: &[std::path::PathBuf]) -> Result<()> {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    print_json(&serde_json::json!({ "files": files }))
}

/// The two commands by which a second machine joins.
fn joining(name: &str, dir: &Path, node: &str) -> String {
    let dir = dir.display();
    format!(
        "A second machine joins with two commands, one here and one there:\n  \
         {name} certs node {node} --dir {dir} && scp -r {dir}/{node} MACHINE:\n  {}",
        start(name, node)
    )
}

fn start(name: &str, node: &str) -> String {
    format!("{name} --config {node}/node.toml node --listen 0.0.0.0:7000 --join THIS_MACHINE:7000\n")
}

fn random_token() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; TOKEN_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| Error::failed(format!("no random bytes for a token: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, what: CertsCommand, force: bool) -> Result<()> {
        let args = CertsArgs { what, dir: dir.to_path_buf(), hosts: Vec::new(), days: 30, force };
        let global = Global { json: true, ..Global::default() };
        certs(&App::new("flights"), &global, &args)
    }

    #[test]
    fn a_second_node_comes_from_the_authority_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("certs");
        let missing = run(&at, CertsCommand::Node { name: "b".into() }, false).unwrap_err();
        assert!(missing.to_string().contains("certs init"), "{missing}");
        run(&at, CertsCommand::Init { node: "a".into() }, false).unwrap();
        run(&at, CertsCommand::Node { name: "b".into() }, false).unwrap();
        run(&at, CertsCommand::Client { name: "support/alice".into() }, false).unwrap();
        for file in
            ["ca.pem", "ca-key.pem", "a/node.toml", "cli/client.toml", "b/node.toml", "alice/client.toml"]
        {
            assert!(at.join(file).is_file(), "{file} is missing");
        }
        assert!(!at.join("b/ca-key.pem").exists(), "the authority's key stays where it is");
        let again = run(&at, CertsCommand::Init { node: "a".into() }, false).unwrap_err();
        assert!(again.exit_code() == 2 && again.to_string().contains("--force"), "{again}");
        run(&at, CertsCommand::Init { node: "a".into() }, true).unwrap();
        assert!(run(&at, CertsCommand::Client { name: "node/x".into() }, false).is_err());
        assert!(run(&at, CertsCommand::Token { name: "a/b/c".into() }, false).is_err());
    }

    #[test]
    fn no_two_tokens_are_alike() {
        assert_ne!(random_token().unwrap(), random_token().unwrap());
        assert_eq!(random_token().unwrap().len(), 2 * TOKEN_BYTES);
    }
}
