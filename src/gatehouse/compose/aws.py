"""Amazon Bedrock from its settings: which region, and who we are there."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from gatehouse.core.plans import Capability
from gatehouse.core.ports import Model
from gatehouse.settings import AwsSettings, Environment, ProviderSettings

if TYPE_CHECKING:
    from gatehouse.adapters.providers._aws_keys import KeySource

BEDROCK_CAPABILITIES: Final = frozenset(
    {
        Capability.STREAM,
        Capability.TOOLS,
        Capability.TOOL_CHOICE,
        Capability.TOP_K,
        Capability.IMAGES,
        Capability.FILES,
        Capability.AUDIO,
        Capability.JSON_SCHEMA,
    }
)
"""What Converse and InvokeModel have words for; which model behind them does it, AWS's page "Supported models and features" says."""


def bedrock_home(settings: ProviderSettings) -> str:
    """The address of the region."""
    from gatehouse.adapters.providers.bedrock import bedrock_url

    return bedrock_url(settings.region or "")


def build_bedrock(settings: ProviderSettings, environment: Environment) -> Model:
    """The model of a provider of kind bedrock. Raises ValueError or OSError when its settings cannot work."""
    from gatehouse.adapters.providers.bedrock import AwsAuthoriser, bedrock_codec
    from gatehouse.adapters.providers.frame import HttpModel
    from gatehouse.compose.providers import model_options
    from gatehouse.dialects.bedrock import Guardrail

    assert settings.region is not None
    options = model_options(settings, environment, bedrock_home(settings))
    guardrail = None if settings.guardrail is None else Guardrail(settings.guardrail.id, settings.guardrail.version)
    codec = bedrock_codec(guardrail)
    if options.api_keys or settings.aws is None:
        return HttpModel(options, codec)
    return HttpModel(options, codec, AwsAuthoriser(_source(settings.name, settings.aws, environment), settings.region))


def _source(label: str, aws: AwsSettings, environment: Environment) -> "KeySource":
    from gatehouse.adapters.providers._aws_keys import CONTAINER_URL, ContainerRole, FixedKey, InstanceRole, MachineKey, ProfileKey
    from gatehouse.adapters.providers._sigv4 import AwsKey

    if aws.access_key_id:
        return FixedKey(AwsKey(aws.access_key_id.reveal(), aws.secret_access_key, aws.session_token or None))
    if aws.profile is not None:
        return ProfileKey(label, aws.profile, (Path(aws.credentials_file).expanduser(), Path(aws.config_file).expanduser()))
    if aws.credentials == "instance":
        return MachineKey(label, InstanceRole())
    relative, full = environment.aws_container_relative_uri, environment.aws_container_full_uri
    if not relative and not full:
        raise ValueError("aws.credentials is container, but AWS named no place for its credentials in the environment")
    token = environment.aws_container_token_file
    return MachineKey(label, ContainerRole(CONTAINER_URL + relative if relative else full, Path(token) if token else None))
