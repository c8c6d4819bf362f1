"""Upload of an exported model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from llm.common.errors import ReportedError


class UploadError(ReportedError):
    """The model is written, but was not uploaded."""

    exit_code = 1


def check_name(name: str) -> None:
    """Refuse, before any work, a name that the hub does not take, or a missing token.

    Raises
    ------
    ValueError
        The message names a cure.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push_to_hub: {' '.join(str(error).split())}") from None
    if get_token() is None:
        raise ValueError("push_to_hub: no token of the hub; run hf auth login, or set HF_TOKEN")


def push(folder: Path, name: str, message: str, private: bool) -> str:
    """Upload a folder as a model of this name, which is made if absent; returns its address.

    Raises
    ------
    UploadError
        If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        repository = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # of the hub, of its HTTP client, or of the network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UploadError(
            f"push_to_hub: {name} was not uploaded: {reason}; the model is in {folder}, and "
            f"`hf upload {name} {folder}` uploads it"
        ) from error
    return str(repository)
