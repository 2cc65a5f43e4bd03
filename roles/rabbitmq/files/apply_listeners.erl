%% For rabbitmqctl eval: has a running broker open and close listeners until they are those of its configuration files.
%% Fails if the broker can't, for example because its user may not read the key. It is to be restarted then.
Schemas = filelib:wildcard("/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/*/priv/schema/*.schema"),
Files = ["/etc/rabbitmq/rabbitmq.conf" | lists:sort(filelib:wildcard("/etc/rabbitmq/conf.d/*.conf"))],
Config = cuttlefish_generator:map(cuttlefish_schema:files(Schemas), cuttlefish_conf:files(Files)),
true = is_list(Config),
Set = fun(App, Key, Default) ->
    case proplists:get_value(Key, proplists:get_value(App, Config, []), Default) of
        undefined -> application:unset_env(App, Key);
        Value -> application:set_env(App, Key, Value)
    end
end,

%% AMQP
[Set(rabbit, Key, []) || Key <- [tcp_listeners, ssl_listeners, ssl_options]],
{ok, Options} = application:get_env(rabbit, ssl_options),
[{ok, _} = file:read_file(File) || {Key, File} <- Options, lists:member(Key, [cacertfile, certfile, keyfile])],
Wanted = fun(Key) ->
    {ok, Listeners} = application:get_env(rabbit, Key),
    [begin {ok, Address} = inet:parse_address(Text), {Address, Port} end || {Text, Port} <- Listeners]
end,
%% A listener is a record: its node, protocol, host, address, port and options.
Open = fun(Protocol) ->
    [{element(5, Each), element(6, Each)}
     || Each <- rabbit_networking:node_listeners(node()), element(3, Each) =:= Protocol]
end,
Text = fun({Address, Port}) -> {inet:ntoa(Address), Port} end,
Kinds = [{amqp, tcp_listeners}, {'amqp/ssl', ssl_listeners}],
[rabbit_networking:stop_tcp_listener(Text(Each)) || {Protocol, Key} <- Kinds, Each <- Open(Protocol) -- Wanted(Key)],
[ok = rabbit_networking:start_tcp_listener(Text(Each), 10) || Each <- Wanted(tcp_listeners) -- Open(amqp)],
[ok = rabbit_networking:start_ssl_listener(Text(Each), rabbit_networking:ensure_ssl(), 10)
 || Each <- Wanted(ssl_listeners) -- Open('amqp/ssl')],
[true = lists:sort(Open(Protocol)) =:= lists:sort(Wanted(Key)) || {Protocol, Key} <- Kinds],

%% The plugins open their listeners when they start. The broker and its connections go on meanwhile.
[begin
    Keys = [tcp_config, ssl_config],
    Before = [application:get_env(App, Key) || Key <- Keys],
    [Set(App, Key, undefined) || Key <- Keys],
    Running = lists:keymember(App, 1, application:which_applications()),
    case Running andalso Before =/= [application:get_env(App, Key) || Key <- Keys] of
        true -> ok = application:stop(App), ok = application:start(App);
        false -> ok
    end
 end || App <- [rabbitmq_management, rabbitmq_prometheus]],
ok.
