"""The profile that `invoke profile-new` writes."""

from __future__ import annotations


def render_new_profile(name: str, *, has_base: bool) -> str:
    """A commented profile that loads without changes.

    Args:
        has_base: whether there is a profile `base` to inherit from; if not, the line `inherit` is
            a comment.
    """
    inherit = 'inherit = "base"' if has_base else '# inherit = "base"'
    return _TEMPLATE.replace("{name}", name).replace("{inherit}", inherit)


_TEMPLATE = """\
#:schema ./profile.schema.json
# The profile "{name}". Every key is explained in docs/profiles.md.
# Try it:   invoke backup --profile {name} --dry-run

description = "Backups of {name}"
# What this file does not say comes from profiles/base.toml.
{inherit}

[backup]
# Full paths. What does not exist is reported by name, the rest is backed up.
sources = ["/etc", "/home"]
# gitignore patterns. A list here replaces the one of the base.
# exclude = ["*.tmp", "node_modules/"]
# Time zone of backup names and days; empty means the machine's own.
# timezone = "Europe/Stockholm"

[store]
# Where the backups go: your bucket, and a folder in it for this server alone.
url = "s3://my-bucket/{name}/"
# Or a folder, such as on a mounted disk (then remove the other keys of this table). Make it once:
# mkdir -m 700 /mnt/nas/{name}
# url = "file:///mnt/nas/{name}/"
# region = "eu-north-1"
# For S3-compatible servers:
# endpoint_url = "https://s3.example.com"
# Without keys here, boto3 looks in its usual places: AWS_* variables, ~/.aws, the
# machine's role. Secrets: { env = "NAME" }, { file = "path" } or { command = ["pass", ...] }.
# access_key_id = { env = "BACKUP_KEY" }
# secret_access_key = { env = "BACKUP_SECRET" }

# To encrypt before anything leaves this machine, add a table [encryption]: see docs/profiles.md.
# `invoke keygen` makes a key.

[retention]
# Which backups to keep; the rest is deleted after each successful backup.
keep_last = 7
keep_daily = 7
keep_weekly = 4
keep_monthly = 12

# When cron starts it; `invoke cron-install` writes the line.
# [schedule]
# cron = "0 2 * * *"

# Who is told, and after which runs. `invoke notify-test --profile {name}` tries it.
# [notify.email]
# on = ["success", "failure"]
# host = "smtp.example.com"
# username = "backup@example.com"
# password = { env = "SMTP_PASSWORD" }
# from = "backup@example.com"
# to = ["admin@example.com"]
"""
