/* The handlers of all procedures, by file; procedures.c lists them with their numbers and layouts. */
#ifndef API_LIBVIRT_HANDLERS_H
#define API_LIBVIRT_HANDLERS_H

struct lv_call;
struct vm;

#define LV_HANDLER(name) void lv_##name(struct lv_call *call, struct vm *vm)

/* guest.c */
LV_HANDLER(domain_agent_command);
LV_HANDLER(domain_fsfreeze);
LV_HANDLER(domain_fsthaw);
LV_HANDLER(domain_fstrim);
LV_HANDLER(domain_get_fsinfo);
LV_HANDLER(domain_get_guest_info);
LV_HANDLER(domain_get_hostname);
LV_HANDLER(domain_get_time);
/* for the source `agent` of domain_interface_addresses */
LV_HANDLER(domain_addresses_by_agent);
LV_HANDLER(domain_pm_suspend);
LV_HANDLER(domain_set_time);
LV_HANDLER(domain_set_user_password);

/* connection.c */
LV_HANDLER(auth_list);
LV_HANDLER(connect_open);
LV_HANDLER(connect_close);
LV_HANDLER(connect_get_type);
LV_HANDLER(connect_get_version);
LV_HANDLER(connect_get_lib_version);
LV_HANDLER(connect_get_hostname);
LV_HANDLER(connect_get_uri);
LV_HANDLER(connect_supports_feature);
LV_HANDLER(connect_is_secure);
LV_HANDLER(connect_register_close);
LV_HANDLER(connect_unregister_close);
LV_HANDLER(connect_get_max_vcpus);
LV_HANDLER(connect_get_capabilities);
LV_HANDLER(connect_get_domain_capabilities);
LV_HANDLER(connect_get_sysinfo);

/* node.c */
LV_HANDLER(node_get_info);
LV_HANDLER(node_get_free_memory);
LV_HANDLER(node_get_cells_free_memory);
LV_HANDLER(node_get_cpu_map);
LV_HANDLER(node_get_cpu_stats);
LV_HANDLER(node_get_memory_stats);
LV_HANDLER(node_get_security_model);

/* lists.c: objects that this host has none of (yet) */
LV_HANDLER(none_all);
LV_HANDLER(none_count);
LV_HANDLER(none_names);
LV_HANDLER(no_interface);
LV_HANDLER(no_node_device);
LV_HANDLER(no_nwfilter);
LV_HANDLER(no_secret);
LV_HANDLER(no_snapshot);

/* domain.c */
LV_HANDLER(domain_lookup_by_id);
LV_HANDLER(domain_lookup_by_name);
LV_HANDLER(domain_lookup_by_uuid);
LV_HANDLER(connect_list_all_domains);
LV_HANDLER(connect_num_of_domains);
LV_HANDLER(connect_list_domains);
LV_HANDLER(connect_num_of_defined_domains);
LV_HANDLER(connect_list_defined_domains);
LV_HANDLER(domain_get_info);
LV_HANDLER(domain_get_state);
LV_HANDLER(domain_get_control_info);
LV_HANDLER(domain_get_xml_desc);
LV_HANDLER(domain_get_os_type);
LV_HANDLER(domain_is_active);
LV_HANDLER(domain_is_persistent);
LV_HANDLER(domain_is_updated);
LV_HANDLER(domain_get_autostart);
LV_HANDLER(domain_get_max_memory);
LV_HANDLER(domain_get_max_vcpus);
LV_HANDLER(domain_get_vcpus_flags);
LV_HANDLER(domain_get_job_info);
LV_HANDLER(domain_get_job_stats);
LV_HANDLER(domain_get_messages);
LV_HANDLER(answer_zero);

/* lifecycle.c */
LV_HANDLER(domain_define);
LV_HANDLER(domain_undefine);
LV_HANDLER(domain_create);
LV_HANDLER(domain_create_with_flags);
LV_HANDLER(domain_create_xml);
LV_HANDLER(domain_destroy);
LV_HANDLER(domain_shutdown);
LV_HANDLER(domain_reboot);
LV_HANDLER(domain_reset);
LV_HANDLER(domain_suspend);
LV_HANDLER(domain_resume);
LV_HANDLER(domain_inject_nmi);

/* change.c */
LV_HANDLER(domain_set_autostart);
LV_HANDLER(domain_rename);
LV_HANDLER(domain_set_metadata);
LV_HANDLER(domain_get_metadata);
LV_HANDLER(domain_set_max_memory);
LV_HANDLER(domain_set_memory);
LV_HANDLER(domain_set_memory_flags);
LV_HANDLER(domain_set_memory_stats_period);
LV_HANDLER(domain_set_vcpus);
LV_HANDLER(domain_set_vcpus_flags);
LV_HANDLER(domain_attach_device);
LV_HANDLER(domain_detach_device);
LV_HANDLER(domain_update_device);

/* stats.c */
LV_HANDLER(domain_block_stats);
LV_HANDLER(domain_get_block_info);
LV_HANDLER(domain_memory_stats);
LV_HANDLER(domain_get_cpu_stats);
LV_HANDLER(connect_get_all_domain_stats);

/* nic.c */
LV_HANDLER(domain_interface_stats);
LV_HANDLER(domain_interface_addresses);
LV_HANDLER(domain_get_interface_parameters);
LV_HANDLER(domain_set_interface_parameters);

/* vcpus.c */
LV_HANDLER(domain_get_vcpus);
LV_HANDLER(domain_get_vcpu_pin_info);
LV_HANDLER(domain_pin_vcpu);
LV_HANDLER(domain_pin_vcpu_flags);

/* events.c */
LV_HANDLER(event_register_callback);
LV_HANDLER(event_deregister_callback);
LV_HANDLER(event_register_any);
LV_HANDLER(event_deregister_any);
LV_HANDLER(event_register);
LV_HANDLER(event_deregister);
LV_HANDLER(event_register_other);
LV_HANDLER(event_register_pool);
LV_HANDLER(event_register_network);

/* stream.c */
LV_HANDLER(domain_open_console);
LV_HANDLER(domain_screenshot);
LV_HANDLER(domain_send_key);

/* network.c */
LV_HANDLER(network_lookup_by_name);
LV_HANDLER(network_lookup_by_uuid);
LV_HANDLER(connect_list_all_networks);
LV_HANDLER(connect_num_of_networks);
LV_HANDLER(connect_list_networks);
LV_HANDLER(connect_num_of_defined_networks);
LV_HANDLER(connect_list_defined_networks);
LV_HANDLER(network_is_active);
LV_HANDLER(network_is_persistent);
LV_HANDLER(network_get_autostart);
LV_HANDLER(network_set_autostart);
LV_HANDLER(network_get_bridge_name);
LV_HANDLER(network_get_dhcp_leases);
LV_HANDLER(network_get_xml_desc);
LV_HANDLER(network_define_xml);
LV_HANDLER(network_create_xml);
LV_HANDLER(network_create);
LV_HANDLER(network_destroy);
LV_HANDLER(network_undefine);

/* storage.c */
LV_HANDLER(storage_pool_lookup_by_name);
LV_HANDLER(storage_pool_lookup_by_uuid);
LV_HANDLER(storage_pool_lookup_by_target_path);
LV_HANDLER(connect_list_all_storage_pools);
LV_HANDLER(connect_num_of_storage_pools);
LV_HANDLER(connect_list_storage_pools);
LV_HANDLER(connect_num_of_defined_storage_pools);
LV_HANDLER(connect_list_defined_storage_pools);
LV_HANDLER(storage_pool_define_xml);
LV_HANDLER(storage_pool_create_xml);
LV_HANDLER(storage_pool_create);
LV_HANDLER(storage_pool_build);
LV_HANDLER(storage_pool_destroy);
LV_HANDLER(storage_pool_undefine);
LV_HANDLER(storage_pool_delete);
LV_HANDLER(storage_pool_refresh);
LV_HANDLER(storage_pool_set_autostart);
LV_HANDLER(storage_pool_is_active);
LV_HANDLER(storage_pool_is_persistent);
LV_HANDLER(storage_pool_get_autostart);
LV_HANDLER(storage_pool_get_info);
LV_HANDLER(storage_pool_get_xml_desc);
LV_HANDLER(storage_pool_list_all_volumes);
LV_HANDLER(storage_pool_num_of_volumes);
LV_HANDLER(storage_pool_list_volumes);
LV_HANDLER(storage_vol_lookup_by_name);
LV_HANDLER(storage_vol_lookup_by_path);
LV_HANDLER(storage_pool_lookup_by_volume);
LV_HANDLER(storage_vol_get_path);
LV_HANDLER(storage_vol_get_info);
LV_HANDLER(storage_vol_get_xml_desc);
LV_HANDLER(storage_vol_create_xml);
LV_HANDLER(storage_vol_delete);
LV_HANDLER(storage_vol_resize);
LV_HANDLER(storage_vol_upload);
LV_HANDLER(storage_vol_download);

#endif
