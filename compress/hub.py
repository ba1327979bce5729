"""Downloads from and uploads to the Hugging Face hub, with errors that tell the user what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # from the HTTP client of the library; not an OSError
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "log in (hf auth login) or set HF_TOKEN"


def is_name(name: str) -> bool:
    """Whether `name` has the form of a hub repository: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def fetch(
    name: str, patterns: Sequence[str], *, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """The folder with the files of the repository `name` that match `patterns`.

    If the hub cannot be reached, only the cache is used, without retries. ValueError, with what to do next,
    for a repository that is missing, private, gated, or neither reachable nor cached.
    """
    why = _unreachable(name, revision, token)
    with _in_words(name, revision, why):
        folder = snapshot_download(
            name, revision=revision, token=token, allow_patterns=list(patterns), ignore_patterns="*/*",
            local_files_only=bool(why),
        )  # fmt: skip
    if not any(any(Path(folder).glob(pattern)) for pattern in patterns):
        raise ValueError(f"{name} is a repository without {' and '.join(patterns)}: another kind of model")
    return Path(folder)


def publish(
    folder: str | Path,
    patterns: Sequence[str],
    name: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload",
) -> str:
    """Commit the files of `folder` that match `patterns` to the repository `name`, created if missing.

    Returns the commit's address. ValueError, with what to do next, if it cannot be done.
    """
    api = HfApi(token=token)
    with _in_words(name, None, ""):
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repository, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(patterns),
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        ).commit_url


def _unreachable(name: str, revision: str | None, token: str | bool | None) -> str:
    """The reason why the hub does not answer; empty if it answers anything.

    One request with a timeout: the library's downloads retry for half a minute if a host is unknown, and have
    no timeout if a firewall drops packets.
    """
    try:
        HfApi(token=token).model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HfHubHTTPError:
        pass  # the hub answered; the download gets the same error unless the files are cached
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set"
    except HTTPError as error:
        return f"cannot reach {constants.ENDPOINT}: {str(error) or type(error).__name__}"
    return ""


@contextmanager
def _in_words(name: str, revision: str | None, why: str) -> Iterator[None]:
    page = f"{constants.ENDPOINT}/{name}"
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(f"{name} is gated: ask for access at {page}, then {LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {name}, and none on the hub that you may see: check the name; "
            f"if it is private, {LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {revision!r}: see {page}/commits") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{why or _first_line(error)}, and {name} is neither a folder nor in the cache "
            f"({constants.HF_HUB_CACHE}); fetch it where there is a network (hf download {name}), "
            f"or give a folder"
        ) from error
    except HfHubHTTPError as error:
        hint = f"; {LOG_IN}" if error.response.status_code in (401, 403) else ""
        raise ValueError(f"the hub refuses {name}: {_first_line(error)}{hint}") from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ValueError(f"the hub cannot be reached for {name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
