# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What an exporter's answer means, in whatever process the exporter runs."""
