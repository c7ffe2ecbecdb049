"""What a server with logins needs before its first worker starts.

Everything lies in the data folder and only its owner can read it: the settings of MLflow's
basic-auth, its database of users, and the key that signs its sessions. What the environment gives
is taken instead. The administrator is made here, once, and not by every worker.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

CONFIG_VARIABLE = "MLFLOW_AUTH_CONFIG_PATH"
SECRET_VARIABLE = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 - the name of a variable
PASSWORD_VARIABLE = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
CONFIG_FILE, USERS_FILE, SECRET_FILE = "basic_auth.ini", "users.db", "session.key"
# MLflow sets these two for its own app name only (`mlflow.server._run_server`).
_BOOTSTRAPPED = "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED"
_JOB_TOKEN = "_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable
_SECRET_BYTES, _PASSWORD_BYTES = 32, 18


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; one that is there stays as it is."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _config(data_dir: Path) -> Path:
    """Return the settings file in the data folder; made with its database when it is missing."""
    path, users = data_dir / CONFIG_FILE, (data_dir / USERS_FILE).resolve()
    if not path.exists():
        # An empty file is an empty database of SQLite; made here, nobody else can read it.
        _write_private(users, "")
        escaped = str(users).replace("%", "%%")
        _write_private(
            path,
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = sqlite:///{escaped}\n"
            "admin_username = admin\n",
        )
    return path.resolve()


def _secret(data_dir: Path) -> str:
    path = data_dir / SECRET_FILE
    _write_private(path, secrets.token_hex(_SECRET_BYTES))
    secret = path.read_text(encoding="utf-8").strip()
    if len(secret) < _SECRET_BYTES:
        raise InputError(
            "holds no key", where=str(path), remedy="delete it, and start the server again"
        )
    return secret


def _make_administrator(*, may_generate: bool) -> list[str]:
    """Make the administrator when there is none.

    Returns:
        Name and password, when the password was generated here.

    Raises:
        InputError: The settings or the password that was given cannot be used.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth
    from sqlalchemy.exc import SQLAlchemyError

    settings, generated = auth.auth_config, False
    try:
        auth.store.init_db(settings.database_uri, read_db_uri=settings.read_database_uri)
        name, password = settings.admin_username, settings.admin_password
        if may_generate and name and password is None:
            generated = not auth.store.has_user(name, use_primary=True)
            password = secrets.token_urlsafe(_PASSWORD_BYTES) if generated else None
        auth.create_admin_user(name, password)
    except (MlflowException, SQLAlchemyError) as exc:
        raise InputError(" ".join(str(exc).split()), where="--app-name kfm-auth") from exc
    return [str(name), str(password)] if generated else []


def prepare_logins(data_dir: Path, environ: MutableMapping[str, str]) -> list[str]:
    """Fill in what MLflow's basic-auth reads from the environment, and make the administrator.

    Call it before anything imports ``mlflow.server.auth``, which reads its settings at import.

    Args:
        data_dir: The server's data folder; it exists.
        environ: This process's environment, which the server inherits. The administrator's
            password is taken out of it: no worker needs it.

    Returns:
        What a person has to be told, a line each; a generated password is told this once.

    Raises:
        InputError: A file or setting cannot be used.
    """
    given = environ.get(CONFIG_VARIABLE)
    if given and not os.path.isfile(given):  # noqa: PTH113 - a variable, not yet a path
        raise InputError("there is no such file", where=f"{CONFIG_VARIABLE}={given}")
    environ[CONFIG_VARIABLE] = given or str(_config(data_dir))
    if not environ.get(SECRET_VARIABLE):
        environ[SECRET_VARIABLE] = _secret(data_dir)
    generated = _make_administrator(may_generate=PASSWORD_VARIABLE not in environ)
    environ.pop(PASSWORD_VARIABLE, None)
    environ[_BOOTSTRAPPED] = "true"
    environ[_JOB_TOKEN] = secrets.token_hex(_SECRET_BYTES)
    if not generated:
        return []
    name, password = generated
    return [f"made the administrator {name} with the password {password} (shown this once)"]
