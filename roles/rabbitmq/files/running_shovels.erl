%% For rabbitmqctl eval: the number of shovels that move messages, on all nodes of the cluster.
Statuses = lists:append([erpc:call(Node, rabbit_shovel_status, status, []) || Node <- [node() | nodes()]]),
Running = [element(1, Each) || Each <- Statuses, is_tuple(element(3, Each)), element(1, element(3, Each)) =:= running],
length(lists:usort(Running)).
