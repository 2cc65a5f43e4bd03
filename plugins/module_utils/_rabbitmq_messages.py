"""Count the messages in RabbitMQ's queues, as the queues themselves have them. Pure."""

from __future__ import annotations

import re

# A quorum queue's own count includes what is unacknowledged, and what is being dead-lettered. A delayed message leaves
# a queue once it is in another one, so that one of two counts in a row finds it.
_COUNT = """
Vhost = <<{vhost}>>,
Queues = [Q || Q <- rabbit_amqqueue:list(Vhost),
               not amqqueue:is_auto_delete(Q),
               amqqueue:get_exclusive_owner(Q) =:= none,
               not lists:keymember(<<"x-expires">>, 1, amqqueue:get_arguments(Q))],
Name = fun(Resource) -> binary_to_list(element(4, Resource)) end,
Messages = fun(Q) ->
    case amqqueue:get_type(Q) of
        rabbit_quorum_queue ->
            {{ok, {{_, Total}}, _}} = ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1),
            Total;
        _ -> proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages]))
    end
end,
Channels = fun(Node) -> erpc:call(Node, ets, tab2list, [channel_queue_metrics]) end,
[[{{messages, Name(amqqueue:get_name(Q)), Messages(Q)}} || _ <- [1, 2], Q <- Queues],
 [{{moved, Name(Resource), element(7, Each)}}
  || Node <- [node() | nodes()], Each <- Channels(Node), {{_, Resource}} <- [element(1, Each)],
     element(2, Resource) =:= Vhost]].
"""
_TUPLE = re.compile(r'\{(messages|moved),\s*("(?:[^"\\]|\\.)*"|\[[0-9,\s]*\]),\s*([0-9]+)\}')


def counting(vhost: str) -> str:
    """Return what rabbitmqctl eval counts the messages of a vhost by."""
    return _COUNT.format(vhost=",".join(map(str, vhost.encode())))


def read_counts(output: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of messages in each queue, and of those that present consumers have acknowledged.

    Args:
        output: of rabbitmqctl eval.

    Raises:
        ValueError: it is not what the expression prints.
    """
    if not output.lstrip().startswith("["):
        raise ValueError(output)
    messages: dict[str, int] = {}
    moved: dict[str, int] = {}
    for kind, name, number in _TUPLE.findall(output):
        queue = _text(name)
        if kind == "messages":
            messages[queue] = max(messages.get(queue, 0), int(number))
        else:
            moved[queue] = moved.get(queue, 0) + int(number)
    return messages, moved


def _text(term: str) -> str:
    """Return a string of Erlang, which is printed as a list of its bytes if it is not plain."""
    if term.startswith("["):
        return bytes(int(number) for number in term.strip("[]").split(",") if number.strip()).decode(errors="replace")
    return re.sub(r"\\(.)", r"\1", term[1:-1])
