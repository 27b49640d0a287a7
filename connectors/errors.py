"""Everything that a user of SLATE may have to act on, as one tree.

    SlateError
    ├── ConfigurationError   a setting is missing, malformed or contradicts another
    ├── ConnectionFailedError a server did not answer, or refused us
    ├── SchemaError          the database has no schema, an older one, or one that drifted
    ├── StreamError          the JetStream stream is missing or is not as the settings say
    ├── PublishError         JetStream did not acknowledge an event
    ├── FencedError          another worker has our partition, or the database has gone back
    └── AuditError           an audit could not be made

Messages say what to do next: which setting to change, which command to run.
"""


class SlateError(Exception):
    """Base of all errors that are not bugs; the command line prints them without a stack trace."""


class ConfigurationError(SlateError):
    """A setting is missing, malformed or contradicts another."""


class ConnectionFailedError(SlateError):
    """A server did not answer, or refused us."""


class SchemaError(SlateError):
    """The database has no schema, an older one, or one that drifted."""


class StreamError(SlateError):
    """The JetStream stream is missing or is not as the settings say."""


class PublishError(SlateError):
    """JetStream did not acknowledge an event."""


class AuditError(SlateError):
    """An audit could not be made."""


class FencedError(SlateError):
    """Another worker has a partition that this one was writing, or the database has gone back."""
