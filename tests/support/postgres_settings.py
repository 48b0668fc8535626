"""PostgreSQL's settings that a session can have: why those that Oncecast leaves alone change nothing."""

from __future__ import annotations

HARMLESS: dict[str, str] = {
    "the application's own: its handlers' SQL may mean it, and that of Oncecast does not depend on it there": """
        TimeZone search_path default_transaction_isolation default_transaction_deferrable extra_float_digits
        transform_null_equals row_security plan_cache_mode jit default_tablespace temp_tablespaces
        default_text_search_config xmlbinary xmloption lc_monetary lc_numeric lc_time bytea_output role
        session_authorization default_table_access_method check_function_bodies session_replication_role
        backslash_quote timezone_abbreviations gin_fuzzy_search_limit lo_compat_privileges""",
    "how a statement is planned, not what it returns": """
        constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction
        debug_parallel_query default_statistics_target effective_cache_size enable_async_append enable_bitmapscan
        enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin
        enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize enable_mergejoin
        enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning
        enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate
        enable_self_join_elimination enable_seqscan enable_sort enable_tidscan from_collapse_limit geqo geqo_effort
        geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold jit_above_cost jit_expressions
        jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming join_collapse_limit
        max_parallel_maintenance_workers max_parallel_workers max_parallel_workers_per_gather
        min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation parallel_setup_cost
        parallel_tuple_cost random_page_cost recursive_worktable_factor seq_page_cost synchronize_seqscans""",
    "what an administrator allows a session to use": """
        backend_flush_after effective_io_concurrency file_copy_method hash_mem_multiplier io_combine_limit
        logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem max_stack_depth temp_buffers
        temp_file_limit vacuum_buffer_usage_limit work_mem""",
    "what the server writes to its log, or counts": """
        backtrace_functions compute_query_id debug_pretty_print debug_print_parse debug_print_plan
        debug_print_rewritten debug_print_raw_parse escape_string_warning log_connections log_disconnections
        log_duration log_error_verbosity log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample
        log_min_duration_statement log_min_error_statement log_min_messages log_parameter_max_length
        log_parameter_max_length_on_error log_parser_stats log_planner_stats log_replication_commands log_statement
        log_statement_sample_rate log_statement_stats log_temp_files log_transaction_sample_rate md5_password_warnings
        stats_fetch_consistency trace_lock_oidmin trace_notify trace_sort track_activities track_cost_delay_timing
        track_counts track_functions track_io_timing track_wal_io_timing update_process_title lc_messages""",
    "how soon a peer that is away is noticed": """
        client_connection_check_interval tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval
        tcp_user_timeout wal_sender_timeout deadlock_timeout""",
    "how pages and the write-ahead log are written, not what they hold": """
        commit_delay commit_siblings default_toast_compression gin_pending_list_limit wal_compression
        wal_consistency_checking wal_init_zero wal_recycle wal_skip_threshold""",
    "other commands than those of Oncecast": """
        allow_in_place_tablespaces allow_system_table_mods createrole_self_grant debug_logical_replication_streaming
        event_triggers icu_validation_level output_plugin_libraries password_encryption quote_all_identifiers
        restrict_nonsystem_relation_kind scram_iterations vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty
        vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age
        vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age
        vacuum_multixact_freeze_table_age vacuum_truncate""",
    "set again by each transaction that begins": """
        transaction_deferrable transaction_isolation transaction_read_only""",
    "for repairing or developing a server": """
        debug_discard_caches dynamic_library_path extension_control_path ignore_checksum_failure
        ignore_system_indexes jit_debugging_support jit_dump_bitcode jit_profiling_support local_preload_libraries
        post_auth_delay session_preload_libraries zero_damaged_pages""",
}

NASTY: dict[str, list[str]] = {
    "DateStyle": ["SQL, DMY", "Postgres, MDY", "German, YMD"],
    "IntervalStyle": ["sql_standard", "iso_8601", "postgres_verbose"],
    "TimeZone": ["America/New_York", "Asia/Tokyo", "<x>-3:17"],
    "client_encoding": ["LATIN1", "SQL_ASCII"],
    "array_nulls": ["off"],
    "standard_conforming_strings": ["off"],
    "backslash_quote": ["off"],
    "extra_float_digits": ["-15"],
    "bytea_output": ["escape"],
    "transform_null_equals": ["on"],
    "default_transaction_isolation": ["serializable", "repeatable read", "read uncommitted"],
    "default_transaction_read_only": ["on"],
    "default_transaction_deferrable": ["on"],
    "session_replication_role": ["replica", "local"],
    "client_min_messages": ["debug5", "error"],
    "exit_on_error": ["on"],
    "statement_timeout": ["2s"],
    "lock_timeout": ["1ms"],
    "idle_session_timeout": ["50ms"],
    "idle_in_transaction_session_timeout": ["50ms"],
    "transaction_timeout": ["2s"],
    "synchronous_commit": ["off", "local", "remote_write", "remote_apply"],
    "row_security": ["off"],
    "check_function_bodies": ["off"],
    "default_tablespace": ["pg_default"],
    "default_table_access_method": ["missing"],
    "search_path": [""],
    "plan_cache_mode": ["force_generic_plan", "force_custom_plan"],
    "jit_above_cost": ["0"],
    "debug_parallel_query": ["regress"],
    "enable_seqscan": ["off"],
    "enable_indexscan": ["off"],
    "enable_sort": ["off"],
    "enable_hashjoin": ["off"],
    "from_collapse_limit": ["1"],
    "join_collapse_limit": ["1"],
    "geqo_threshold": ["2"],
    "constraint_exclusion": ["on"],
    "cursor_tuple_fraction": ["1"],
    "work_mem": ["64"],
    "temp_file_limit": ["0"],
    "max_stack_depth": ["100"],
    "timezone_abbreviations": ["India", "Australia"],
    "quote_all_identifiers": ["on"],
    "xmlbinary": ["hex"],
    "restrict_nonsystem_relation_kind": ["view, foreign-table"],
    "track_activities": ["off"],
    "track_counts": ["off"],
    "stats_fetch_consistency": ["none"],
    "event_triggers": ["off"],
    "lo_compat_privileges": ["on"],
    "log_statement": ["all"],
    "debug_print_plan": ["on"],
    "client_connection_check_interval": ["10ms"],
    "tcp_user_timeout": ["5s"],
    "deadlock_timeout": ["10s"],
    "commit_delay": ["100"],
    "default_text_search_config": ["pg_catalog.simple"],
}
"""Values that are unlike the defaults."""
