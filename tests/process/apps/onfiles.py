"""The tasks of ``traces`` on the filesystem transport, which has no asynchronous I/O."""

from __future__ import annotations

import os

from traces import app  # the tasks come along

folder = os.environ["SHOP_FILES"]
app.conf.broker_url = "filesystem://"
app.conf.broker_transport_options = {
    "data_folder_in": folder,
    "data_folder_out": folder,
    "control_folder": folder,
}
