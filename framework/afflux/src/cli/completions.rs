//! `completions`: what a shell needs to complete commands, options and the names of pipelines.

use clap::builder::PossibleValuesParser;

use super::args::{self, CompletionsArgs};
use super::output::print;
use crate::app::App;
use crate::error::{Error, Result};

/// Commands whose argument `pipeline` names one of the program's.
const NAMING_A_PIPELINE: [&str; 3] = ["dev", "graph", "run"];

pub(crate) fn completions(app: &App, args: &CompletionsArgs) -> Result<()> {
    print(&script(app, args.shell)?)
}

/// The script of a shell, from the same table that reads the command line.
fn script(app: &App, shell: clap_complete::Shell) -> Result<String> {
    let mut command = args::command(app.name());
    let pipelines = app.pipelines().names();
    if !pipelines.is_empty() {
        for name in NAMING_A_PIPELINE {
            // clap keeps names for the life of the process, which ends with this script.
            let names = pipelines.iter().map(|name| &*String::leak((*name).to_owned()));
            let known = PossibleValuesParser::new(names);
            command = command
                .mut_subcommand(name, |sub| sub.mut_arg("pipeline", |pipeline| pipeline.value_parser(known)));
        }
    }
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, app.name(), &mut text);
    if shell == clap_complete::Shell::Fish && !pipelines.is_empty() {
        // What is made for fish completes no values of arguments without a name.
        let (name, commands, known) = (app.name(), NAMING_A_PIPELINE.join(" "), pipelines.join(" "));
        let line =
            format!("complete -c {name} -n \"__fish_seen_subcommand_from {commands}\" -f -a \"{known}\"\n");
        text.extend_from_slice(line.as_bytes());
    }
    String::from_utf8(text).map_err(|error| Error::failed(format!("the script is no text: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_command_option_and_pipeline_is_in_the_script_of_each_shell() {
        let app = App::new("flights").pipeline("hourly-delays", |_| Ok(())).pipeline("daily", |_| Ok(()));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(&app, shell).unwrap();
            for name in super::super::command_names() {
                assert!(script.contains(&name), "{shell} does not know the command {name}");
            }
            for word in ["hourly-delays", "daily", "allow-orphaned-state", "flights"] {
                assert!(script.contains(word), "{shell} does not know {word}");
            }
        }
    }

    #[test]
    fn a_program_without_pipelines_has_a_script_too() {
        let script = script(&App::new("echo"), Shell::Bash).unwrap();
        assert!(script.contains("_echo()") && script.contains("services"), "{script}");
    }
}
