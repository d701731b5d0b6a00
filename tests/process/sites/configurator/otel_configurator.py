"""What opentelemetry-distro registers: the SDK's own configurator, and no more."""

from __future__ import annotations

from opentelemetry.sdk._configuration import _OTelSDKConfigurator


class Configurator(_OTelSDKConfigurator):
    pass
