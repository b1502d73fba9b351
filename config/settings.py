"""The one settings module. Every setting is read from the environment once, here, and nowhere else.

Each secret NAME may also come as NAME_FILE, the path of a file that holds it. Without DATABASE_URL and
REDIS_URL the servers that `manage.py up` started are taken from DATA_DIR/servers.json.
A bad value refuses to start with a sentence that says what to do.
"""

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.csp import CSP

from config import pool
from config.readers import (
    database_urls,
    first_given,
    folder_or_none,
    is_address,
    mailer,
    read_key,
    read_networks,
    read_public_url,
    sandbox_folder,
)

env = environ.FileAwareEnv()

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.str("DATA_DIR", default="var")).expanduser().absolute()
HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
DEBUG = env.bool("DEBUG", default=False)

# Keys -----------------------------------------------------------------------------------------------------
SECRET_KEY = read_key(env.str("SECRET_KEY", default=""), DATA_DIR / "keys" / "secret_key")
MASTER_KEY = read_key(env.str("MASTER_KEY", default=""), DATA_DIR / "keys" / "master_key")
TENANT_KEYS_DIR = folder_or_none(env.str("TENANT_KEYS_DIR", default=""), DATA_DIR / "keys" / "tenants")

# Servers --------------------------------------------------------------------------------------------------
SERVERS_FILE = DATA_DIR / "servers.json"
_servers: dict[str, str] = json.loads(SERVERS_FILE.read_text()) if SERVERS_FILE.is_file() else {}
# As the operator gave them; '' where the embedded servers are wanted.
GIVEN_DATABASE_URL = env.str("DATABASE_URL", default="")
GIVEN_DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default="")
GIVEN_REDIS_URL = env.str("REDIS_URL", default="")
DATABASE_URL, DATABASE_OWNER_URL = database_urls(GIVEN_DATABASE_URL, GIVEN_DATABASE_OWNER_URL, _servers)
# Where people find this: as the running `up` says, whatever HOST and PORT another command was given.
GIVEN_PUBLIC_URL = read_public_url(env.str("PUBLIC_URL", default=""))
PUBLIC_URL = first_given(GIVEN_PUBLIC_URL, _servers.get("url"), f"http://{HOST}:{PORT}")
REDIS_URL = first_given(GIVEN_REDIS_URL, _servers.get("redis_url"))


CONNECT_SECONDS = 5


def _database(url: str) -> dict[str, Any]:
    try:
        database: dict[str, Any] = environ.Env.db_url_config(url or "postgres:///parley")
    except (ValueError, ImproperlyConfigured) as error:
        raise ImproperlyConfigured(
            "DATABASE_URL must look like postgres://user:password@host:port/name"
        ) from error
    # A host that swallows packets would be waited for without end. `?connect_timeout=` in the URL says otherwise.
    options = {"connect_timeout": CONNECT_SECONDS} | database.get("OPTIONS", {})
    return database | {"CONN_HEALTH_CHECKS": True, "OPTIONS": options}


# How long one statement of the application may take. 0 is no limit, for poolers too that refuse to be told one.
DATABASE_STATEMENT_SECONDS = env.float("DATABASE_STATEMENT_SECONDS", default=30.0)
DATABASES = {"default": _database(DATABASE_URL), "owner": _database(DATABASE_OWNER_URL)}
# One pool a process: under ASGI every page has a thread of its own, whose connection would end with it.
# Statements are prepared from their third use on: planning them anew took PostgreSQL most of a turn's time.
DATABASES["default"]["OPTIONS"].update(
    server_side_binding=True,
    prepare_threshold=3,
    # A server that is back is noticed in two seconds, however long it was away.
    pool={"min_size": 2, "max_size": 32, "timeout": 5, "reconnect_timeout": 2, "check": pool.check},
)
if DATABASE_STATEMENT_SECONDS > 0:
    _given = DATABASES["default"]["OPTIONS"].get("options", "")
    _limit = f"-c statement_timeout={max(1, round(DATABASE_STATEMENT_SECONDS * 1000))}"
    DATABASES["default"]["OPTIONS"]["options"] = f"{_limit} {_given}".rstrip()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL or "redis://127.0.0.1:6379"], "prefix": "parley"},
    }
}

# The model and the sandbox --------------------------------------------------------------------------------
MODEL_UPSTREAM_ALLOWLIST = frozenset(env.list("MODEL_UPSTREAM_ALLOWLIST", default=[]))
if bad := sorted(entry for entry in MODEL_UPSTREAM_ALLOWLIST if not is_address(entry)):
    raise ImproperlyConfigured(f"MODEL_UPSTREAM_ALLOWLIST takes host:port, separated by commas; not {bad}")
ALLOW_OAUTH_TOKENS = env.bool("ALLOW_OAUTH_TOKENS", default=True)
SANDBOX_DIR = Path(env.str("SANDBOX_DIR", default="") or sandbox_folder(DATA_DIR))
SANDBOX_TIER = env.str("SANDBOX_TIER", default="")
SANDBOX_PROVE_SECONDS = env.float("SANDBOX_PROVE_SECONDS", default=600.0)
UNWALLED_TENANTS = env.bool("UNWALLED_TENANTS", default=False)
RUNNER_NAME = env.str("RUNNER_NAME", default=socket.gethostname())
RUNNER_MAX_PROCESSES = env.int("RUNNER_MAX_PROCESSES", default=0)
RUNNER_FREE_DISK_MB = env.int("RUNNER_FREE_DISK_MB", default=512)
QUESTION_YIELDS_SECONDS = env.float("QUESTION_YIELDS_SECONDS", default=600.0)
RUNNER_DRAIN_SECONDS = env.float("RUNNER_DRAIN_SECONDS", default=25.0)

# What one conversation may use, and one turn of it ----------------------------------------------------------
CONVERSATION_MEMORY_MB = env.int("CONVERSATION_MEMORY_MB", default=4096)
CONVERSATION_PROCESSES = env.int("CONVERSATION_PROCESSES", default=1024)
CONVERSATION_DISK_MB = env.int("CONVERSATION_DISK_MB", default=10240)
CONVERSATION_FILES = env.int("CONVERSATION_FILES", default=400_000)
CONVERSATION_FILE_MB = env.int("CONVERSATION_FILE_MB", default=4096)
TURN_SECONDS = env.float("TURN_SECONDS", default=7200.0)
TURN_CPU_SECONDS = env.float("TURN_CPU_SECONDS", default=7200.0)
TURN_OUTPUT_MB = env.int("TURN_OUTPUT_MB", default=64)

# The web process ------------------------------------------------------------------------------------------
WEB_DRAIN_SECONDS = env.float("WEB_DRAIN_SECONDS", default=25.0)
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
WEB_STALL_SECONDS = env.float("WEB_STALL_SECONDS", default=30.0)

# How much a key, or a signed-in member, may do ----------------------------------------------------------------
KEY_SOCKETS = env.int("KEY_SOCKETS", default=100)
KEY_SOCKETS_PER_SECOND = env.int("KEY_SOCKETS_PER_SECOND", default=20)
KEY_MESSAGES_PER_SECOND = env.int("KEY_MESSAGES_PER_SECOND", default=20)
MEMBER_QUEUED_TURNS = env.int("MEMBER_QUEUED_TURNS", default=200)
KEY_CALLS_PER_SECOND = env.int("KEY_CALLS_PER_SECOND", default=300)
KEY_FRAMES_PER_SECOND = env.int("KEY_FRAMES_PER_SECOND", default=100)
# Pages, of each person who is signed in; of all others, of each address.
PAGES_PER_SECOND = env.int("PAGES_PER_SECOND", default=100)

# How many refusals of one member a minute are kept in the audit; those beyond are counted nowhere.
AUDIT_REFUSALS_PER_MINUTE = env.int("AUDIT_REFUSALS_PER_MINUTE", default=60)

# Mail -----------------------------------------------------------------------------------------------------
# Invitations go out by it. At home they are written to the output of `web`; in production their links must not be.
_MAIL = "smtp://localhost:25" if PUBLIC_URL.startswith("https://") else "consolemail://"
MAILERS = {"default": mailer(env.email_url("EMAIL_URL", default=_MAIL))}
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", default="Parley <parley@localhost>")

# Django ---------------------------------------------------------------------------------------------------
_LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]", HOST]
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[*_LOCAL_HOSTS, urlsplit(PUBLIC_URL).hostname or HOST])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
INSTALLED_APPS = [
    "config",
    "conversations",
    "tenants",
    "channels",
    "procrastinate.contrib.django",
    "allauth",
    "allauth.account",
    "config.platform.PlatformConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "tenants.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "config.api.api_errors",
    "config.static_files.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "tenants.middleware.PageRateMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "tenants.middleware.CurrentTenantMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Served straight from the tree: there is no build step and no collected copy to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LOCALE_PATHS = [BASE_DIR / "locale"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024

# Who ------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ACCOUNT_ADAPTER = "tenants.accounts.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
# Who has no account gets no mail from us because somebody typed their address.
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_LOGOUT_REDIRECT_URL = "/"
# allauth counts failed sign-ins in the cache; every web process has to see the same count.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL or "redis://127.0.0.1:6379",
        "KEY_PREFIX": "parley",
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.db"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"

# In production: PUBLIC_URL=https://… -------------------------------------------------------------------------
# A proxy ends TLS; from it alone is taken who asks and how (config/proxies.py).
HTTPS = PUBLIC_URL.startswith("https://")
TRUSTED_PROXIES = read_networks(env.list("TRUSTED_PROXIES", default=[]))
if HTTPS and not TRUSTED_PROXIES:
    raise ImproperlyConfigured(
        "PUBLIC_URL is https, so a proxy ends TLS: name its address in TRUSTED_PROXIES, such as 127.0.0.1"
    )
if HTTPS and DEBUG:
    raise ImproperlyConfigured("DEBUG shows the inside to everybody: not together with a PUBLIC_URL of https")
if HTTPS:
    # By this prefix a browser takes them over https alone, for this host alone, from this host alone.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
CSRF_COOKIE_HTTPONLY = True  # no script of ours reads it
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_SSL_HOST = urlsplit(PUBLIC_URL).netloc
SECURE_REDIRECT_EXEMPT = [r"^(health|ready|metrics)$"]  # who asks these stands beside us
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
# A place in the browsers' own lists can hardly be taken back: that is for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W021"]

# The page -------------------------------------------------------------------------------------------------
SECURE_CSP = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "frame-ancestors": [CSP.NONE],
    "base-uri": [CSP.NONE],
}
CSRF_FAILURE_VIEW = "conversations.pages.stale_form"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

_SECRETS = [
    secret
    for given in (SECRET_KEY, MASTER_KEY, METRICS_TOKEN)
    for secret in (given, *given.replace(",", " ").split())
] + [urlsplit(url).password or "" for url in (DATABASE_URL, DATABASE_OWNER_URL, REDIS_URL)]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "config.logs.Line", "secrets": _SECRETS}},
    # Answers of ours, not errors to log at each poll (/ready, while something is missing) or of each flood.
    "filters": {
        "not_busy": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) not in (429, 503),
        }
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["not_busy"]},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "parley": {"level": "INFO"},
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
