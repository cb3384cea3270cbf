"""The published layouts of recommendation logs, one description each."""

from ingest.adapters.layouts.feeds import EBNERD, KUAIRAND, MIND
from ingest.adapters.layouts.ratings import AMAZON, MOVIELENS
from ingest.adapters.layouts.shops import OTTO, RETAILROCKET, TAOBAO
from ingest.adapters.published import Source

LAYOUTS: dict[str, tuple[Source, ...]] = {
    "amazon": AMAZON,
    "ebnerd": EBNERD,
    "kuairand": KUAIRAND,
    "mind": MIND,
    "movielens": MOVIELENS,
    "otto": OTTO,
    "retailrocket": RETAILROCKET,
    "taobao": TAOBAO,
}
