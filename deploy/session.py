"""`slate session`: a session in the terminal, with stand-ins for OpenAI and Unity where `--demo` asks for them."""

from contextlib import ExitStack
from typing import Annotated

import typer

from connectors.settings import Settings
from deploy.processes import variables
from deploy.standins import studio
from deploy.supervisor import Supervisor
from deploy.unity_mcp import install
from realtime.modes import DEFAULT_MODEL
from realtime.terminal import ModelOption, ModeOption, ProjectOption, SayOption, UserOption, talk


def session_command(
    model: ModelOption = DEFAULT_MODEL,
    mode: ModeOption = "",
    project: ProjectOption = "",
    user: UserOption = "",
    say: SayOption = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="With stand-ins for OpenAI and the editor, and the real Unity MCP server.")
    ] = False,
) -> None:
    """Talk with the model, which works in a Unity editor; each step is published as an event.

    Needs OPENAI_REALTIME_API_KEY and UNITY_MCP_URL, or --demo, and NATS: `slate up` in another terminal is one, and
    `slate demo` has all of it. Ctrl-C cancels what is under way, and ends the session when nothing is.
    """
    settings = Settings.load()
    settings.nats_servers()
    with ExitStack() as opened:
        if demo and settings.openai_url is None:
            settings = _with_studio(settings, opened)
        talk(settings, model=model, mode=mode, project=project, user=user, say=say)


def _with_studio(settings: Settings, opened: ExitStack) -> Settings:
    """Start the stand-ins for as long as `opened` is, and point the settings to them."""
    install(say=typer.echo)
    directory = settings.dir.absolute() / "demo"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    supervisor = Supervisor()
    opened.callback(supervisor.kill)
    found: dict[str, str] = {}
    for server in studio(directory, lambda name: directory / f"{name}.log"):
        supervisor.start(server)
        found |= server.environment()
    typer.echo(f"Scripts appear in {directory / 'projects'}")
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    fields = {name: found[variable] for name, variable in variables().items() if variable in found}
    return Settings.load(**(given | fields))
