"""Google's models from their settings: the Gemini API with a key, Vertex AI as a service account."""

from typing import Final

from gatehouse.core.plans import Capability
from gatehouse.core.ports import Model
from gatehouse.settings import Environment, GoogleSettings, ProviderSettings

GEMINI_CAPABILITIES: Final = frozenset(Capability) - {Capability.LOGIT_BIAS, Capability.SINGLE_TOOL, Capability.INFILL}
"""https://ai.google.dev/api/generate-content"""


def gemini_home(settings: ProviderSettings) -> str:
    """The address of the Gemini API."""
    from gatehouse.adapters.providers.gemini import GEMINI_BASE_URL

    return GEMINI_BASE_URL


def build_gemini(settings: ProviderSettings, environment: Environment) -> Model:
    """The model of a provider of kind gemini. Raises ValueError or OSError when its settings cannot work."""
    from gatehouse.adapters.providers.frame import HttpModel
    from gatehouse.adapters.providers.gemini import gemini_codec
    from gatehouse.compose.providers import model_options

    return HttpModel(model_options(settings, environment, gemini_home(settings)), gemini_codec())


def vertex_home(settings: ProviderSettings) -> str:
    """The address of the location."""
    from gatehouse.adapters.providers.vertex import vertex_url

    return vertex_url((settings.google or GoogleSettings()).location)


def build_vertex(settings: ProviderSettings, environment: Environment) -> Model:
    """The model of a provider of kind vertex. Raises ValueError or OSError when its settings or its key file cannot work."""
    from gatehouse.adapters.providers.vertex import VertexModel, service_account
    from gatehouse.compose.providers import model_options

    google = settings.google or GoogleSettings()
    options = model_options(settings, environment, vertex_home(settings))
    account, authoriser = service_account(options, google.credentials_file, google.token_url)
    project = google.project or account.project_id
    if not project:
        raise ValueError("neither google.project nor the credentials file names a project")
    return VertexModel(options, authoriser, project, google.location)


def is_claude(model: str) -> bool:
    """Whether Vertex serves this model in Anthropic's format."""
    from gatehouse.adapters.providers.vertex import publisher_of

    return publisher_of(model)[0] == "anthropic"
