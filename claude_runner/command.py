"""The CLI's command line and environment. Every flag is explicit: defaults change between versions."""

from claude_runner.sandbox import Inside
from claude_runner.spec import LaunchSpec, RunnerSettings

PROMPT_FILE = "system-prompt"
# The CLI takes this as: whoever is behind the socket adds the real credential.
PLACEHOLDER = "ssh-placeholder"
CREDENTIAL_VARIABLES = {
    "oauth_token": "CLAUDE_CODE_OAUTH_TOKEN",
    "api_key": "ANTHROPIC_API_KEY",
    "endpoint": "ANTHROPIC_API_KEY",
}
# They act after their turn has ended, leave the workspace, or ask in a form that no page shows yet.
TOOLS_WITHOUT_A_PLACE = (
    *("AskUserQuestion", "CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree"),
    *("ListAgents", "Monitor", "ScheduleWakeup", "SendMessage"),
)


def arguments(spec: LaunchSpec, paths: Inside, *, resume: bool) -> list[str]:
    session = "--resume" if resume else "--session-id"
    return [
        *(str(paths.cli), "-p", "--verbose"),
        *("--input-format", "stream-json", "--output-format", "stream-json", "--include-partial-messages"),
        *("--permission-prompt-tool", "stdio", "--permission-mode", spec.permission_mode),
        *("--setting-sources=", "--strict-mcp-config", "--session-mirror"),
        f"--disallowedTools={','.join(TOOLS_WITHOUT_A_PLACE)}",
        # With an equals sign no value can be read as a flag.
        f"{session}={spec.conversation}",
        *([f"--tools={','.join(spec.tools)}"] if spec.tools else []),
        *([f"--model={spec.model}"] if spec.model else []),
        # Not as an argument: those end at 128 KiB, and the host's process list shows them.
        *([f"--append-system-prompt-file={paths.config / PROMPT_FILE}"] if spec.system_prompt else []),
    ]


def environment(spec: LaunchSpec, paths: Inside, settings: RunnerSettings) -> dict[str, str]:
    return {
        "ANTHROPIC_UNIX_SOCKET": str(paths.socket),
        "ANTHROPIC_BASE_URL": "http://model.internal",
        CREDENTIAL_VARIABLES[spec.credential_kind]: PLACEHOLDER,
        "CLAUDE_CONFIG_DIR": str(paths.config),
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # A turn is over when its result has come: nothing goes on behind it.
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_TERMINAL_TITLE": "1",
        # The same stream events, for a fifth less CPU on a long answer. Undocumented; others ignore it.
        "CLAUDE_CODE_PLAIN_DELTA_FAST_PATH": "1",
        "CLAUDE_CODE_MAX_RETRIES": str(settings.max_retries),
        "DISABLE_AUTOUPDATER": "1",
    }
