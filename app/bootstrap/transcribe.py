"""Amazon Transcribe, as the settings want it. Slow to import, for the AWS SDK is."""

from __future__ import annotations

import ssl

from app.config import ConfigError, Settings
from audio.engines.aws import AwsRegion
from audio.engines.aws_credentials import BotocoreCredentials
from audio.engines.aws_options import AwsOptions


def regions_of(settings: Settings) -> dict[str, AwsRegion]:
    """Amazon Transcribe in each region of the settings, in their order.

    Raises:
        ConfigError: the options contradict each other.
    """
    credentials, context = BotocoreCredentials(), ssl.create_default_context()
    return {
        region: AwsRegion(
            region,
            endpoint=settings.transcribe_endpoint,
            options=_aws_options(settings),
            credentials=credentials,
            context=context,
        )
        for region in settings.aws_regions
    }


def _aws_options(settings: Settings) -> AwsOptions:
    languages = settings.transcribe_language_options
    try:
        return AwsOptions(
            language_options=languages,
            code_switching=bool(languages),
            vocabulary_filter=settings.transcribe_vocabulary_filter,
            vocabulary_filter_method="mask" if settings.transcribe_vocabulary_filter else None,
            stability=settings.transcribe_stability,
            identify_pii=settings.transcribe_identify_pii,
        )
    except ValueError as error:
        raise ConfigError([f"KIKITORI_TRANSCRIBE_LANGUAGE_OPTIONS: {error}"]) from None
